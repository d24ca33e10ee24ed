"""GPUs of a large cluster while the planner fills them: those that nothing tells apart are in one stack.

What a GPU is to give is a load, a multiset of instances; where on the GPU they lie is settled at the end, so that what
comes later can still push aside what came before.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from brain.decide.fillings import Table
from brain.decide.rooms import Room

FRESH_COST: Final = 100
"""What a change costs more on a node that is not tainted for one yet: so a plan made again keeps to its nodes."""


@dataclass(slots=True, eq=False)
class Card:
    """One GPU.

    Attributes:
        room: its node.
        position: the GPU's position on it.
        state: the stack that it belongs to.
    """

    room: Room
    position: int
    state: State


@dataclass(slots=True, eq=False)
class State:
    """What tells GPUs apart.

    Attributes:
        site: the nodes that they are of, by number.
        table: their fillings.
        free: free instances.
        limit: a load that theirs must stay part of; None where they may have any that fits.
        load: what they give.
        cost: what the load disturbs.
        order: tells states apart in the order in which they were found.
        cards: the GPUs; some may have gone on to another state since.
        moves: by unit of load, where one more leads and what that costs; None where it does not fit.
    """

    site: int
    table: Table
    free: int
    limit: int | None
    load: int
    cost: int
    order: int
    cards: list[Card] = field(default_factory=list)
    moves: dict[int, tuple[int, State] | None] = field(default_factory=dict)


class Stacks:
    """All states of a cluster's GPUs."""

    def __init__(self, tainted: list[bool], carry: int) -> None:
        """Of sites, by number: whether their nodes are tainted already. ``carry`` has each resource's highest bit."""
        self._tainted = tainted
        self._carry = carry
        self._known: dict[tuple[int, Table, int, int | None, int], State] = {}
        self.by_site: list[list[State]] = [[] for _ in tainted]

    def state(self, site: int, table: Table, free: int, limit: int | None, load: int) -> State:
        """The state with these features."""
        key = (site, table, free, limit, load)
        found = self._known.get(key)
        if found is None:
            cost = self.cost(site, table, free, load)
            found = self._known[key] = State(site, table, free, limit, load, cost, len(self._known))
            self.by_site[site].append(found)
        return found

    def move(self, state: State, unit: int) -> tuple[int, State] | None:
        """Where one more instance leads and what it costs; None where it does not fit."""
        try:
            return state.moves[unit]
        except KeyError:
            found = state.moves[unit] = self._move(state, unit)
            return found

    def _move(self, state: State, unit: int) -> tuple[int, State] | None:
        load = state.load + unit
        if load not in state.table:
            return None
        if state.limit is not None and not self.part(load, state.limit):
            return None
        after = self.state(state.site, state.table, state.free, state.limit, load)
        return after.cost - state.cost, after

    def cost(self, site: int, table: Table, free: int, load: int) -> int:
        """What a load disturbs on a GPU."""
        cost, chosen = table.best(free, load)
        return cost + (FRESH_COST if chosen & ~free and not self._tainted[site] else 0)

    def push(self, card: Card, state: State) -> None:
        """Put a GPU on top of a stack."""
        card.state = state
        state.cards.append(card)

    def part(self, load: int, whole: int) -> bool:
        """Whether a load has no more of any resource than another."""
        # Subtracting borrows from a resource's highest bit exactly where the load has more of it.
        return ((whole | self._carry) - load) & self._carry == self._carry

    def clear(self) -> None:
        """Let go of all: states and cards know each other, and would else wait for the search for such cycles."""
        for states in self.by_site:
            for state in states:
                state.cards.clear()
                state.moves.clear()
            states.clear()
        while self._known:
            self._known.popitem()  # one by one: to free all at once holds up all other threads

    def lift_limits(self) -> list[tuple[State, list[Card]]]:
        """Let GPUs have any load that fits; which these are, by the state that each was in."""
        lifted = []
        for states in self.by_site:
            for state in states:
                # A card that comes back must not find itself there.
                state.cards = [card for card in state.cards if card.state is state]
            for state in list(states):
                if state.limit is not None and state.cards:
                    after = self.state(state.site, state.table, state.free, None, state.load)
                    for card in state.cards:
                        card.state = after
                    after.cards += state.cards
                    lifted.append((state, state.cards))
                    state.cards = []
        return lifted

    def limit_again(self, lifted: list[tuple[State, list[Card]]]) -> None:
        """Take :meth:`lift_limits` back for the GPUs that give what they gave."""
        for state, cards in lifted:
            after = self.state(state.site, state.table, state.free, None, state.load)
            state.cards = [card for card in cards if card.state is after]
            for card in state.cards:
                card.state = state
            after.cards = [card for card in after.cards if card.state is after]
