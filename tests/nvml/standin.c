/* A stand-in for NVIDIA's management library (libnvidia-ml.so.1), for driving the real Python binding without a GPU.
 *
 * It keeps the rules that catch people out on real parts: placements and maximum counts; occupied slots are
 * INSUFFICIENT_RESOURCES; a profile is asked for by an enum and named by an id everywhere else; GPU and compute instances
 * are made and destroyed one by one; ids are given again and UUIDs are new each time; a MIG device exists only with a
 * compute instance; one that a process or a handle holds is IN_USE; nothing works with MIG off or on a lost GPU; old
 * structures and calls have versions. Handles of what is gone are refused.
 *
 * Its state is a file that all processes map, so a test and the program under test see the same GPUs. A test can let any
 * call fail with any error, or hang, the n-th time. Built with -DOLD_DRIVER it lacks the calls that old drivers lack.
 *
 * It does not show: time, memory, clocks, power, errors of chips (Xid), changes of MIG mode and what they do to handles,
 * permissions other than by a fault, how real drivers choose ids and order lists, races inside the driver, exclusive
 * engines other than by profile name, or anything of calls that the agent does not make. What it does where public
 * sources say nothing (which of two fitting errors comes first, say) is a guess. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    GPU_IS_LOST = 15, IN_USE = 19, INSUFFICIENT_RESOURCES = 23, VERSION_MISMATCH = 25, UNKNOWN = 999,
};
enum { GPUS = 16, PROFILES = 24, STARTS = 16, INSTANCES = 16, COMPUTES = 8, HOLDS = 64, FAULTS = 32, TEXT = 96 };
enum { COMPUTE, GRAPHICS, MPS, HANDLE };        /* kinds of holders; a handle shows in no list */
enum { HANG = -1 };                             /* in place of an error */
enum { MINOR = 3 };                             /* the first GPU's, so that nobody mistakes it for the index */
enum { DEVICE = 1, MIG_DEVICE, GPU_INSTANCE, COMPUTE_INSTANCE };

typedef uint64_t handle;                        /* kind:8 gpu:8 instance:8 compute:8 serial:32 */
typedef struct { unsigned start, size; } placement;

struct profile { int number, id, slices, size, count, starts, start[STARTS]; unsigned long long memory; char name[TEXT]; };
struct compute { int exists, number; unsigned serial; char uuid[TEXT]; };
struct instance { int exists, id, profile, start; unsigned serial; struct compute computes[COMPUTES]; };
struct gpu {
    char name[TEXT], uuid[TEXT];
    unsigned long long memory;
    int mode, pending, virtualization, lost, profiles;
    struct profile profile[PROFILES];
    struct instance instance[INSTANCES];
};
struct hold { int exists, pid, kind; unsigned serial; };
struct fault { int exists, gpu, error, skip, times; char call[TEXT]; };
struct state {
    pthread_mutex_t mutex;
    unsigned serial, changes;
    int gpus;
    struct gpu gpu[GPUS];
    struct hold hold[HOLDS];
    struct fault fault[FAULTS];
};

static struct state *state;
static int opened;

/* Compute instance profiles by NVML's enum: 1, 2, 3, 4, 7, 8, 6 slices, then 1 slice with media engines. Their ids
 * differ from the enum, so that nobody mistakes one for the other. */
static const int compute_slices[] = {1, 2, 3, 4, 7, 8, 6, 1};
enum { COMPUTE_PROFILES = sizeof compute_slices / sizeof *compute_slices, COMPUTE_ID = 40 };

static void lock(void) {
    if (pthread_mutex_lock(&state->mutex) == EOWNERDEAD) pthread_mutex_consistent(&state->mutex);
}
static void unlock(void) { pthread_mutex_unlock(&state->mutex); }

/* What happens before each call: the fault that is meant for it. Comes back with the lock held unless it refuses. */
static int enter(const char *call, int gpu) {
    if (!opened || !state) return UNINITIALIZED;
    lock();
    for (int i = 0; i < FAULTS; i++) {
        struct fault *fault = &state->fault[i];
        if (!fault->exists || strcmp(fault->call, call) || (fault->gpu >= 0 && fault->gpu != gpu)) continue;
        if (fault->skip > 0) { fault->skip--; continue; }
        int error = fault->error;
        if (error == HANG) {
            while (fault->exists && fault->error == HANG) { unlock(); usleep(2000); lock(); }
            continue;
        }
        if (fault->times > 0 && --fault->times == 0) fault->exists = 0;
        unlock();
        return error;
    }
    if (gpu >= 0 && gpu < state->gpus && state->gpu[gpu].lost) { unlock(); return GPU_IS_LOST; }
    return SUCCESS;
}
#define ENTER(gpu) do { int refused = enter(__func__, gpu); if (refused) return refused; } while (0)
#define LEAVE(result) do { int left = (result); unlock(); return left; } while (0)

static handle made(unsigned kind, unsigned gpu, unsigned instance, unsigned compute, unsigned serial) {
    return (handle)kind << 56 | (handle)gpu << 48 | (handle)instance << 40 | (handle)compute << 32 | serial;
}
static unsigned kind_of(handle h) { return h >> 56; }
static int gpu_of(handle h) { return h >> 48 & 0xff; }
static struct gpu *gpu_at(handle h) {
    return kind_of(h) == DEVICE && gpu_of(h) < state->gpus ? &state->gpu[gpu_of(h)] : NULL;
}
static struct instance *instance_at(handle h) {
    struct instance *found = &state->gpu[gpu_of(h) % GPUS].instance[(h >> 40 & 0xff) % INSTANCES];
    int fits = kind_of(h) == GPU_INSTANCE ? found->serial == (unsigned)h : kind_of(h) != DEVICE;
    return found->exists && fits ? found : NULL;
}
static struct compute *compute_at(handle h) {
    struct instance *instance = instance_at(h);
    struct compute *found = instance ? &instance->computes[(h >> 32 & 0xff) % COMPUTES] : NULL;
    return found && found->exists && found->serial == (unsigned)h ? found : NULL;
}
static struct profile *profile_by_id(struct gpu *gpu, int id) {
    for (int i = 0; i < gpu->profiles; i++) if (gpu->profile[i].id == id) return &gpu->profile[i];
    return NULL;
}
static void new_uuid(char *text, const char *prefix) {
    unsigned char b[16];
    if (getrandom(b, sizeof b, 0) != sizeof b) abort();
    snprintf(text, TEXT, "%s-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", prefix, b[0], b[1],
             b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]);
}
static int held(unsigned serial) {
    for (int i = 0; i < HOLDS; i++) if (state->hold[i].exists && state->hold[i].serial == serial) return 1;
    return 0;
}
static int copied(char *to, unsigned length, const char *from) {
    if (strlen(from) >= length) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}

/* ---- For tests. ---- */

int standin_attach(const char *path) {
    int file = open(path, O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, sizeof *state)) return UNKNOWN;
    if (state) munmap(state, sizeof *state);
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (state == MAP_FAILED) { state = NULL; return UNKNOWN; }
    if (!state->serial) {
        pthread_mutexattr_t kind;
        pthread_mutexattr_init(&kind);
        pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
        pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
        pthread_mutex_init(&state->mutex, &kind);
        state->serial = 1;
    }
    return SUCCESS;
}
int standin_add_gpu(const char *name, unsigned long long memory_mib) {
    lock();
    struct gpu *gpu = &state->gpu[state->gpus];
    snprintf(gpu->name, TEXT, "%s", name);
    new_uuid(gpu->uuid, "GPU");
    gpu->memory = memory_mib;
    gpu->mode = gpu->pending = 1;
    int index = state->gpus++;
    unlock();
    return index;
}
void standin_add_profile(int at, int number, int id, const char *name, int slices, int size, int count,
                         unsigned long long memory_mib, const int *starts, int length) {
    lock();
    struct gpu *gpu = &state->gpu[at];
    struct profile *profile = &gpu->profile[gpu->profiles++];
    *profile = (struct profile){number, id, slices, size, count, length, {0}, memory_mib, ""};
    memcpy(profile->start, starts, length * sizeof *starts);
    snprintf(profile->name, TEXT, "MIG %s", name);
    unlock();
}
void standin_set(int at, int mode, int pending, int virtualization, int lost) {
    lock();
    struct gpu *gpu = &state->gpu[at];
    gpu->mode = mode, gpu->pending = pending, gpu->virtualization = virtualization, gpu->lost = lost;
    unlock();
}
/* Somebody opens the MIG device of that UUID: a process of a kind, or a handle without one. */
int standin_hold(const char *uuid, int pid, int kind) {
    int result = NOT_FOUND;
    lock();
    for (int g = 0; g < state->gpus; g++)
        for (int i = 0; i < INSTANCES; i++)
            for (int c = 0; c < COMPUTES; c++) {
                struct compute *compute = &state->gpu[g].instance[i].computes[c];
                if (!state->gpu[g].instance[i].exists || !compute->exists || strcmp(compute->uuid, uuid)) continue;
                for (int h = 0; h < HOLDS && result; h++)
                    if (!state->hold[h].exists) {
                        state->hold[h] = (struct hold){1, pid, kind, compute->serial};
                        result = SUCCESS;
                    }
            }
    unlock();
    return result;
}
void standin_release(int pid) {
    lock();
    for (int i = 0; i < HOLDS; i++) if (state->hold[i].pid == pid) state->hold[i].exists = 0;
    unlock();
}
/* From the (skip + 1)th time on, `times` times (0: for ever), the call fails with `error`; gpu -1 is any. */
int standin_fault(const char *call, int gpu, int error, int skip, int times) {
    int result = UNKNOWN;
    lock();
    for (int i = 0; i < FAULTS && result; i++)
        if (!state->fault[i].exists) {
            state->fault[i] = (struct fault){1, gpu, error, skip, times, ""};
            snprintf(state->fault[i].call, TEXT, "%s", call);
            result = SUCCESS;
        }
    unlock();
    return result;
}
void standin_clear_faults(void) {
    lock();
    memset(state->fault, 0, sizeof state->fault);
    unlock();
}
/* All instances and holders are gone, as after a reboot. */
void standin_reboot(void) {
    lock();
    memset(state->hold, 0, sizeof state->hold);
    for (int i = 0; i < state->gpus; i++) memset(state->gpu[i].instance, 0, sizeof state->gpu[i].instance);
    unlock();
}
/* How often a call was made that changes hardware. */
unsigned standin_changes(void) { return state->changes; }

/* ---- NVML: the node. ---- */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    const char *path = getenv("NVML_STANDIN");
    if (!state && (!path || standin_attach(path))) return UNKNOWN;
    opened++;
    int refused = enter(__func__, -1);
    if (refused) { opened--; return refused; }
    LEAVE(SUCCESS);
}
int nvmlShutdown(void) {
    ENTER(-1);
    opened--;
    LEAVE(SUCCESS);
}
const char *nvmlErrorString(int error) {
    switch (error) {
    case IN_USE: return "In use by another client";
    case INSUFFICIENT_RESOURCES: return "Insufficient Resources";
    default: return "Error of the stand-in";
    }
}
int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    ENTER(-1);
    LEAVE(copied(version, length, "580.95.05"));
}
int nvmlDeviceGetCount_v2(unsigned *count) {
    ENTER(-1);
    *count = state->gpus;
    LEAVE(SUCCESS);
}

/* ---- NVML: a device, whole or MIG. ---- */

int nvmlDeviceGetHandleByIndex_v2(unsigned index, handle *device) {
    ENTER((int)index);
    *device = made(DEVICE, index, 0, 0, 0);
    LEAVE((int)index < state->gpus ? SUCCESS : INVALID_ARGUMENT);
}
int nvmlDeviceGetUUID(handle device, char *uuid, unsigned length) {
    ENTER(gpu_of(device));
    if (gpu_at(device)) LEAVE(copied(uuid, length, gpu_at(device)->uuid));
    struct compute *compute = kind_of(device) == MIG_DEVICE ? compute_at(device) : NULL;
    LEAVE(compute ? copied(uuid, length, compute->uuid) : NOT_FOUND);
}
int nvmlDeviceGetName(handle device, char *name, unsigned length) {
    ENTER(gpu_of(device));
    LEAVE(gpu_at(device) ? copied(name, length, gpu_at(device)->name) : INVALID_ARGUMENT);
}
int nvmlDeviceGetMemoryInfo(handle device, unsigned long long *total_free_used) {
    ENTER(gpu_of(device));
    if (!gpu_at(device)) LEAVE(INVALID_ARGUMENT);
    total_free_used[0] = total_free_used[1] = gpu_at(device)->memory << 20;
    total_free_used[2] = 0;
    LEAVE(SUCCESS);
}
int nvmlDeviceGetMinorNumber(handle device, unsigned *minor) {
    ENTER(gpu_of(device));
    *minor = MINOR + gpu_of(device);
    LEAVE(gpu_at(device) ? SUCCESS : INVALID_ARGUMENT);
}
int nvmlDeviceGetVirtualizationMode(handle device, unsigned *mode) {
    ENTER(gpu_of(device));
    if (!gpu_at(device)) LEAVE(INVALID_ARGUMENT);
    *mode = gpu_at(device)->virtualization;
    LEAVE(SUCCESS);
}
int nvmlDeviceGetMigMode(handle device, unsigned *current, unsigned *pending) {
    ENTER(gpu_of(device));
    struct gpu *gpu = gpu_at(device);
    if (!gpu) LEAVE(INVALID_ARGUMENT);
    *current = gpu->mode, *pending = gpu->pending;
    LEAVE(gpu->profiles ? SUCCESS : NOT_SUPPORTED);
}

struct process { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; };
static int processes(const char *call, int kind, handle device, unsigned *count, struct process *list) {
    int refused = enter(call, gpu_of(device));
    if (refused) return refused;
    struct compute *compute = kind_of(device) == MIG_DEVICE ? compute_at(device) : NULL;
    if (!compute) LEAVE(NOT_FOUND);
    unsigned found = 0, room = *count;
    for (int i = 0; i < HOLDS; i++) {
        struct hold *hold = &state->hold[i];
        if (!hold->exists || hold->kind != kind || hold->serial != compute->serial) continue;
        if (found < room) list[found] = (struct process){hold->pid, 0, instance_at(device)->id, device >> 32 & 0xff};
        found++;
    }
    *count = found;
    LEAVE(found > room ? INSUFFICIENT_SIZE : SUCCESS);
}
#define LISTS(name, kind) \
    int name(handle device, unsigned *count, struct process *list) { return processes(__func__, kind, device, count, list); }
LISTS(nvmlDeviceGetComputeRunningProcesses_v2, COMPUTE)
LISTS(nvmlDeviceGetGraphicsRunningProcesses_v2, GRAPHICS)
#ifndef OLD_DRIVER
LISTS(nvmlDeviceGetComputeRunningProcesses_v3, COMPUTE)
LISTS(nvmlDeviceGetGraphicsRunningProcesses_v3, GRAPHICS)
LISTS(nvmlDeviceGetMPSComputeRunningProcesses_v3, MPS)
#endif

/* ---- NVML: GPU instances. ---- */

struct profile_info {
    unsigned id, p2p, slices, count, multiprocessors, copy, decoders, encoders, jpeg, ofa;
    unsigned long long memory;
};
struct profile_info_v2 {
    unsigned version, id, p2p, slices, count, multiprocessors, copy, decoders, encoders, jpeg, ofa;
    unsigned long long memory;
    char name[TEXT];
};
static int partitionable(struct gpu *gpu) { return gpu && gpu->profiles && gpu->mode; }

static int profile_by_enum(handle device, unsigned number, struct profile **found) {
    struct gpu *gpu = gpu_at(device);
    if (!gpu || number >= 0x12) return INVALID_ARGUMENT;
    if (!partitionable(gpu)) return NOT_SUPPORTED;
    for (int i = 0; i < gpu->profiles; i++)
        if (gpu->profile[i].number == (int)number) { *found = &gpu->profile[i]; return SUCCESS; }
    return NOT_SUPPORTED;
}
int nvmlDeviceGetGpuInstanceProfileInfo(handle device, unsigned number, struct profile_info *info) {
    ENTER(gpu_of(device));
    struct profile *p = NULL;
    int result = profile_by_enum(device, number, &p);
    if (!result) *info = (struct profile_info){.id = p->id, .slices = p->slices, .count = p->count, .memory = p->memory};
    LEAVE(result);
}
#ifndef OLD_DRIVER
int nvmlDeviceGetGpuInstanceProfileInfoV(handle device, unsigned number, struct profile_info_v2 *info) {
    ENTER(gpu_of(device));
    struct profile *p = NULL;
    if (info->version != 0x02000098) LEAVE(VERSION_MISMATCH);
    int result = profile_by_enum(device, number, &p);
    if (!result) {
        *info = (struct profile_info_v2){
            .version = info->version, .id = p->id, .slices = p->slices, .count = p->count, .memory = p->memory};
        strcpy(info->name, p->name);
    }
    LEAVE(result);
}
#endif
int nvmlDeviceGetGpuInstancePossiblePlacements_v2(handle device, unsigned id, placement *list, unsigned *count) {
    ENTER(gpu_of(device));
    struct gpu *gpu = gpu_at(device);
    struct profile *profile = gpu ? profile_by_id(gpu, id) : NULL;
    if (!profile) LEAVE(INVALID_ARGUMENT);
    if (list && *count < (unsigned)profile->starts) LEAVE(INSUFFICIENT_SIZE);
    for (int i = 0; list && i < profile->starts; i++) list[i] = (placement){profile->start[i], profile->size};
    *count = profile->starts;
    LEAVE(SUCCESS);
}
int nvmlDeviceGetGpuInstances(handle device, unsigned id, handle *list, unsigned *count) {
    ENTER(gpu_of(device));
    struct gpu *gpu = gpu_at(device);
    if (!partitionable(gpu)) LEAVE(gpu ? NOT_SUPPORTED : INVALID_ARGUMENT);
    if (!profile_by_id(gpu, id)) LEAVE(INVALID_ARGUMENT);
    *count = 0;
    for (int i = INSTANCES - 1; i >= 0; i--) {
        struct instance *one = &gpu->instance[i];
        if (one->exists && gpu->profile[one->profile].id == (int)id)
            list[(*count)++] = made(GPU_INSTANCE, gpu_of(device), i, 0, one->serial);
    }
    LEAVE(SUCCESS);
}
/* Media engines: one instance with them (+me) per GPU; beside one with all of them (+me.all) only those without (-me). */
static int media(const char *name) {
    return strstr(name, "+me.all") ? 2 : strstr(name, "+me") ? 1 : strstr(name, "-me") ? -1 : 0;
}
static int exclude(const char *one, const char *other) {
    int a = media(one), b = media(other);
    if (a == 2 || b == 2) return a != -1 && b != -1;
    return a == 1 && b == 1;
}
int nvmlDeviceCreateGpuInstanceWithPlacement(handle device, unsigned id, const placement *where, handle *instance) {
    ENTER(gpu_of(device));
    state->changes++;
    struct gpu *gpu = gpu_at(device);
    if (!partitionable(gpu)) LEAVE(gpu ? NOT_SUPPORTED : INVALID_ARGUMENT);
    struct profile *profile = profile_by_id(gpu, id);
    if (!profile || where->size != (unsigned)profile->size) LEAVE(INVALID_ARGUMENT);
    int known = 0, same = 0, slot = -1, number = 1;
    for (int i = 0; i < profile->starts; i++) known |= profile->start[i] == (int)where->start;
    if (!known) LEAVE(INVALID_ARGUMENT);
    for (int i = 0; i < INSTANCES; i++) {
        struct instance *one = &gpu->instance[i];
        if (!one->exists) { slot = i; continue; }
        struct profile *other = &gpu->profile[one->profile];
        if ((int)where->start < one->start + other->size && one->start < (int)where->start + profile->size)
            LEAVE(INSUFFICIENT_RESOURCES);
        if (exclude(profile->name, other->name)) LEAVE(INSUFFICIENT_RESOURCES);
        same += other == profile;
    }
    if (same >= profile->count || slot < 0) LEAVE(INSUFFICIENT_RESOURCES);
    for (int i = 0; i < INSTANCES; i++) /* the smallest id that is free; twice round, as the first may free none */
        if (gpu->instance[i].exists && gpu->instance[i].id == number) number++, i = -1;
    gpu->instance[slot] =
        (struct instance){1, number, profile - gpu->profile, where->start, ++state->serial, {{0, 0, 0, ""}}};
    *instance = made(GPU_INSTANCE, gpu_of(device), slot, 0, state->serial);
    LEAVE(SUCCESS);
}
struct instance_info { handle device; unsigned id, profile; placement where; };
int nvmlGpuInstanceGetInfo(handle instance, struct instance_info *info) {
    ENTER(gpu_of(instance));
    struct instance *one = instance_at(instance);
    if (!one) LEAVE(NOT_FOUND);
    struct profile *profile = &state->gpu[gpu_of(instance)].profile[one->profile];
    *info = (struct instance_info){
        made(DEVICE, gpu_of(instance), 0, 0, 0), one->id, profile->id, {one->start, profile->size}};
    LEAVE(SUCCESS);
}
int nvmlGpuInstanceDestroy(handle instance) {
    ENTER(gpu_of(instance));
    state->changes++;
    struct instance *one = instance_at(instance);
    if (!one) LEAVE(NOT_FOUND);
    for (int i = 0; i < COMPUTES; i++) if (one->computes[i].exists) LEAVE(IN_USE);
    one->exists = 0;
    LEAVE(SUCCESS);
}

/* ---- NVML: compute instances. ---- */

struct compute_profile_info { unsigned id, slices, count, multiprocessors, copy, decoders, encoders, jpeg, ofa; };
struct compute_profile_info_v2 {
    unsigned version, id, slices, count, multiprocessors, copy, decoders, encoders, jpeg, ofa;
    char name[TEXT];
};
static int slices_of(handle instance) {
    return state->gpu[gpu_of(instance)].profile[instance_at(instance)->profile].slices;
}
static int compute_profile(handle instance, unsigned number) {
    if (!instance_at(instance)) return NOT_FOUND;
    if (number > COMPUTE_PROFILES) return INVALID_ARGUMENT;
    if (number == COMPUTE_PROFILES || compute_slices[number] > slices_of(instance)) return NOT_SUPPORTED;
    return SUCCESS;
}
int nvmlGpuInstanceGetComputeInstanceProfileInfo(handle instance, unsigned number, unsigned engines,
                                                 struct compute_profile_info *info) {
    ENTER(gpu_of(instance));
    int result = engines ? INVALID_ARGUMENT : compute_profile(instance, number);
    if (!result) *info = (struct compute_profile_info){.id = COMPUTE_ID + number, .slices = compute_slices[number]};
    LEAVE(result);
}
#ifndef OLD_DRIVER
int nvmlGpuInstanceGetComputeInstanceProfileInfoV(handle instance, unsigned number, unsigned engines,
                                                  struct compute_profile_info_v2 *info) {
    ENTER(gpu_of(instance));
    if (info->version != 0x02000088) LEAVE(VERSION_MISMATCH);
    int result = engines ? INVALID_ARGUMENT : compute_profile(instance, number);
    if (!result)
        *info = (struct compute_profile_info_v2){
            .version = info->version, .id = COMPUTE_ID + number, .slices = compute_slices[number]};
    LEAVE(result);
}
#endif
int nvmlGpuInstanceGetComputeInstances(handle instance, unsigned id, handle *list, unsigned *count) {
    ENTER(gpu_of(instance));
    struct instance *one = instance_at(instance);
    if (!one) LEAVE(NOT_FOUND);
    *count = 0;
    for (int i = 0; i < COMPUTES; i++)
        if (one->computes[i].exists && one->computes[i].number + COMPUTE_ID == (int)id)
            list[(*count)++] =
                made(COMPUTE_INSTANCE, gpu_of(instance), instance >> 40 & 0xff, i, one->computes[i].serial);
    LEAVE(SUCCESS);
}
int nvmlGpuInstanceCreateComputeInstance(handle instance, unsigned id, handle *compute) {
    ENTER(gpu_of(instance));
    state->changes++;
    struct instance *one = instance_at(instance);
    int refused = compute_profile(instance, id - COMPUTE_ID), taken = 0, slot = -1;
    if (refused) LEAVE(refused == NOT_SUPPORTED ? INVALID_ARGUMENT : refused);
    for (int i = COMPUTES - 1; i >= 0; i--) {
        if (one->computes[i].exists) taken += compute_slices[one->computes[i].number];
        else slot = i;
    }
    if (slot < 0 || taken + compute_slices[id - COMPUTE_ID] > slices_of(instance)) LEAVE(INSUFFICIENT_RESOURCES);
    one->computes[slot] = (struct compute){1, id - COMPUTE_ID, ++state->serial, ""};
    new_uuid(one->computes[slot].uuid, "MIG");
    *compute = made(COMPUTE_INSTANCE, gpu_of(instance), instance >> 40 & 0xff, slot, state->serial);
    LEAVE(SUCCESS);
}
struct compute_info { handle device, instance; unsigned id, profile; placement where; };
int nvmlComputeInstanceGetInfo_v2(handle compute, struct compute_info *info) {
    ENTER(gpu_of(compute));
    struct compute *one = compute_at(compute);
    if (!one) LEAVE(NOT_FOUND);
    unsigned instance = compute >> 40 & 0xff, slot = compute >> 32 & 0xff;
    *info = (struct compute_info){made(MIG_DEVICE, gpu_of(compute), instance, slot, one->serial),
                                  made(GPU_INSTANCE, gpu_of(compute), instance, 0, instance_at(compute)->serial),
                                  slot, COMPUTE_ID + one->number, {0, compute_slices[one->number]}};
    LEAVE(SUCCESS);
}
int nvmlComputeInstanceDestroy(handle compute) {
    ENTER(gpu_of(compute));
    state->changes++;
    struct compute *one = compute_at(compute);
    if (!one) LEAVE(NOT_FOUND);
    if (held(one->serial)) LEAVE(IN_USE);
    one->exists = 0;
    LEAVE(SUCCESS);
}
