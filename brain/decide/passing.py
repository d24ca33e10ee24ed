"""Whose quota lets them pass, in which order; whether they have room is not decided here.

Nobody passes before one of its own quota that passes too, or will once others have gone, and has a higher priority:
that one would only evict it again.
Who gets the room of pods on their way out is charged without passing, so that nobody gets in before it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence, Set
from functools import lru_cache

from brain.decide.entitlement import passes
from brain.decide.ledger import Books, Refusal
from brain.decide.waiting import BORROWER, OWNER, SHARER, Ahead, Entry, Waiting, natural
from brain.model import resources


class Passing:
    """Who passes in one round.

    Attributes:
        kept: keys of those that are charged without passing, since they get the room of pods on their way out.
        unlent: keys of those that do not pass because quotas have too little left to lend.
    """

    def __init__(self, books: Books, waiting: Waiting, expects: Mapping[str, str]) -> None:
        """``expects``: by key, the node where a pod gets the room of those on their way out."""
        self._books = books
        self._waiting = waiting
        self._expects = expects
        self._ahead = Ahead()
        self.kept: set[str] = set()
        self.unlent: set[str] = set()

    def accepted(self, without: Set[str]) -> list[Entry]:
        """Those whose quota lets them pass, owners first; they are charged. Of groups all that are of use, or none."""
        accepted: list[Entry] = []
        self._ahead = self._waiting.ahead.copy()
        waiting = [entry for entry in self._waiting.gated if entry.key not in without]
        allows = self._books.now.allows
        for tier in (OWNER, SHARER, BORROWER):
            left: list[Entry] = []
            for entry, members in self._waiting.together(waiting):
                if not members:
                    # Who does not pass is told why when its last turn comes.
                    turn = tier == BORROWER or allows(entry.quota, entry.request) or entry.key in self._expects
                    (accepted if turn and self._charged(entry, tier) else left).append(entry)
                    continue
                taken = self._together(members, self._waiting.needs[entry.pod.group], tier)
                accepted += taken
                chosen = {each.key for each in taken}
                left += [each for each in members if each.key not in chosen]
            waiting = left
        return accepted

    def tier(self, entry: Entry) -> int:
        """When the turn of one that was let in is: not before one of its quota that passes and would evict it."""
        return self._ahead.tier(entry, entry.tier) if entry.pod.unschedulable else entry.tier

    def others(self, entries: Sequence[Entry], without: Container[str]) -> bool:
        """Whether one that was refused for what others would use passes now that they found no room."""
        inside = {entry.key for entry in entries}
        return any(
            passes(self._books.now, entry.quota, entry.pod, entry.request)
            for entry in self._waiting.gated
            if entry.key not in inside and entry.key not in without
        )

    def earlier(self, entries: Sequence[Entry], without: Container[str]) -> bool:
        """Whether one that was refused passes before some of the accepted, which are not charged meanwhile."""
        inside = {entry.key for entry in entries}
        latest = max((entry.turn for entry in entries), default=(OWNER, False, 0))
        lowest: dict[str, int] = {}
        for entry in entries:
            lowest[entry.quota.key] = min(lowest.get(entry.quota.key, entry.pod.priority), entry.pod.priority)
        return any(
            passes(self._books.now, entry.quota, entry.pod, entry.request)
            and (
                (natural(entry, self._books.now), not entry.held, -entry.pod.priority) < latest
                or entry.pod.priority > lowest.get(entry.quota.key, entry.pod.priority)
            )
            for entry in self._waiting.gated
            if entry.key not in inside and entry.key not in without
        )

    def _together(self, members: Sequence[Entry], need: int, tier: int) -> list[Entry]:
        taken = [entry for entry in members if self._charged(entry, tier)]
        if len(taken) >= need:
            return taken
        for entry in taken:
            self._books.discharge(entry.quota, entry.request)
        for entry in members:  # what those were told that did not pass counts the others in
            entry.wait = f"waits: {need} pods of its group go in together, and the quota lets {len(taken)}"
            entry.about = "its group"
        return []

    def _charged(self, entry: Entry, tier: int) -> bool:
        """Whether a pod passes, and comes as early as it is now the turn of; then it is charged."""
        if entry.key in self.kept:
            return False
        now, later = self._books.now, self._books.later
        may = passes(now, entry.quota, entry.pod, entry.request)
        expects = entry.key in self._expects and not may
        own = natural(entry, now)
        entry.owner, entry.wait, entry.about = own == OWNER, "", ""
        if expects:
            own = natural(entry, later)
        entry.tier = self._ahead.tier(entry, own)
        if may or expects:
            self._ahead.note(entry, own)
        if entry.tier > tier:
            return False
        if not may:
            self._refuse(entry)
            if expects:
                self.kept.add(entry.key)
        if may or expects:
            self._books.charge(entry.quota, entry.request)
        return may

    def _refuse(self, entry: Entry) -> None:
        """Says what a pod waits for that does not pass."""
        for refusal in self._books.now.refusals(entry.quota, entry.request):
            entry.wait = _told(refusal, entry.quota.name, borrows=not entry.owner)
            entry.about = f"{refusal.rule} {refusal.resource}"
            if refusal.rule != "max":
                self.unlent.add(entry.key)
            return
        quota = entry.quota.name
        entry.wait = f"waits: it is not preemptible, so it may not borrow, and {quota} has no min left for it"


@lru_cache(maxsize=1_000)
def _told(refusal: Refusal, quota: str, *, borrows: bool) -> str:
    """A quota's refusal in words; most of those that wait are refused for the same things."""
    used, limit, left, asked = (
        resources.quantity(refusal.resource, value)
        for value in (refusal.used, refusal.limit, max(0, refusal.limit - refusal.used), refusal.asked)
    )
    if refusal.rule == "max":
        return f"waits: {quota} uses {used} of max {limit} {refusal.resource}, and this asks for {asked}"
    if borrows:
        return f"waits: quotas lend {left} of {limit} {refusal.resource}, and this asks for {asked}"
    used_up = f"all but {left} of the {limit} {refusal.resource} that quotas guarantee are used"
    return f"waits: {used_up}, and this asks for {asked}"
