/* A stand-in for NVIDIA's driver (libcuda.so.1), for machines without a GPU.
 *
 * Memory of the device is address space of the process, a launch does nothing, and everything that is asked of the driver is
 * counted. With the real NVRTC beside it a program goes through its whole host side: every kernel is generated and compiled
 * for the architecture that is named, every allocation, copy and launch is made. Nothing is computed: what was copied to
 * memory is read back from it, and memory to which nothing was copied since it was allocated reads zero.
 *
 * Environment, all of it optional:
 *   STAND_IN_ARCHITECTURE=89   compute capability, two digits [default: 90]
 *   STAND_IN_MEMORY_GIB=24     memory of all devices together; an allocation beyond it fails as on a real one [default: 80]
 *   STAND_IN_DEVICES=2         number of devices [default: 1]
 *   STAND_IN_CUDA=12080        what the driver says that it supports, as cuDriverGetVersion does [default: 12080]
 *   STAND_IN_FAILS_AT=1000     launch from which on the device fails with an illegal address, for good [default: never]
 *   STAND_IN_REPORT=FILE       where the counts go when the process ends, as JSON; %p in it is the process's number
 *
 * The signatures are those of cuda.h, 12.x, with its opaque types reduced to what is looked at.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;
typedef void *Handle;

/* Codes of CUresult, cuda.h. */
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, ILLEGAL_ADDRESS = 700 };

struct allocation {
    CUdeviceptr start;
    size_t bytes;
};
struct kernel {
    char *name;
    uint64_t launches;
};

/* One lock for all of it: the counts must be right, and nobody times the stand-in itself. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct allocation *allocations;
static size_t allocation_count, allocation_room;
static struct kernel *kernels;
static size_t kernel_count, kernel_room;
static size_t live_bytes, peak_bytes;
static uint64_t allocated, launches, modules, bytes_to_device, bytes_to_host, handles;
static int started, failed;

static long setting(const char *name, long otherwise)
{
    const char *value = getenv(name);
    return value && *value ? atol(value) : otherwise;
}
static long architecture(void) { return setting("STAND_IN_ARCHITECTURE", 90); }
static size_t memory(void) { return (size_t)setting("STAND_IN_MEMORY_GIB", 80) << 30; }
static long devices(void) { return setting("STAND_IN_DEVICES", 1); }

/* Only the stand-in exports it: who needs to know that nothing is computed looks for it. */
int relora_stand_in(void) { return 1; }

/* ---- the report ---- */

static int more_launches_first(const void *left, const void *right)
{
    const struct kernel *a = left, *b = right;
    if (a->launches != b->launches) return a->launches < b->launches ? 1 : -1;
    return strcmp(a->name, b->name);
}
static FILE *report_file(void)
{
    const char *named = getenv("STAND_IN_REPORT");
    if (!named || !*named) return NULL;
    const char *number = strstr(named, "%p");
    char path[4096];
    if (number)
        snprintf(path, sizeof path, "%.*s%d%s", (int)(number - named), named, (int)getpid(), number + 2);
    else
        snprintf(path, sizeof path, "%s", named);
    return fopen(path, "w");
}
/* The words with which this process was started; what JSON would have to escape is left out. */
static void write_command(FILE *file)
{
    FILE *words = fopen("/proc/self/cmdline", "r");
    int letter, is_first = 1;
    fprintf(file, "[");
    while (words && (letter = fgetc(words)) != EOF) {
        fprintf(file, is_first ? "\"" : ", \"");
        for (is_first = 0; letter != '\0' && letter != EOF; letter = fgetc(words))
            if (letter >= ' ' && letter != '"' && letter != '\\') fputc(letter, file);
        fprintf(file, "\"");
    }
    fprintf(file, "]");
    if (words) fclose(words);
}
__attribute__((destructor)) static void report(void)
{
    FILE *file = started ? report_file() : NULL;
    if (!file) return;
    pthread_mutex_lock(&lock);
    qsort(kernels, kernel_count, sizeof *kernels, more_launches_first);
    fprintf(file, "{\"command\": ");
    write_command(file);
    fprintf(file, ",\n \"architecture\": %ld, \"launches\": %lu, \"modules\": %lu, \"allocations\": %lu,\n", architecture(),
            launches, modules, allocated);
    fprintf(file, " \"peak_bytes\": %zu, \"live_bytes\": %zu, \"bytes_to_device\": %lu, \"bytes_to_host\": %lu,\n",
            peak_bytes, live_bytes, bytes_to_device, bytes_to_host);
    fprintf(file, " \"kernels\": [");
    for (size_t i = 0; i < kernel_count; i++)
        fprintf(file, "%s\n  {\"launches\": %lu, \"name\": \"%s\"}", i ? "," : "", kernels[i].launches, kernels[i].name);
    fprintf(file, "]}\n");
    fclose(file);
    pthread_mutex_unlock(&lock);
}

/* ---- memory ---- */

/* Room for one more element. The process ends where there is none: it has asked for megabytes of bookkeeping by then. */
static void *grown(void *elements, size_t count, size_t *room, size_t size)
{
    if (count < *room) return elements;
    *room = *room ? 2 * *room : 256;
    void *larger = realloc(elements, *room * size);
    if (!larger) abort();
    return larger;
}
static CUresult allocate(CUdeviceptr *start, size_t bytes)
{
    CUresult result = OUT_OF_MEMORY;
    pthread_mutex_lock(&lock);
    if (bytes == 0)
        result = INVALID_VALUE;
    else if (live_bytes + bytes <= memory()) {
        /* Pages that nobody touches take no memory and read zero. */
        void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (pages != MAP_FAILED) {
            allocations = grown(allocations, allocation_count, &allocation_room, sizeof *allocations);
            allocations[allocation_count++] = (struct allocation){(CUdeviceptr)pages, bytes};
            allocated++;
            live_bytes += bytes;
            if (live_bytes > peak_bytes) peak_bytes = live_bytes;
            *start = (CUdeviceptr)pages;
            result = SUCCESS;
        }
    }
    pthread_mutex_unlock(&lock);
    return result;
}
static CUresult release(CUdeviceptr start)
{
    CUresult result = start ? INVALID_VALUE : SUCCESS;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < allocation_count; i++) {
        if (allocations[i].start != start) continue;
        munmap((void *)start, allocations[i].bytes);
        live_bytes -= allocations[i].bytes;
        allocations[i] = allocations[--allocation_count];
        result = SUCCESS;
        break;
    }
    pthread_mutex_unlock(&lock);
    return result;
}
/* Whether all those bytes are of one allocation: a copy beyond its end is a fault on a real device too. */
static int is_allocated(CUdeviceptr start, size_t bytes)
{
    int found = 0;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i < allocation_count && !found; i++) {
        CUdeviceptr first = allocations[i].start, end = first + allocations[i].bytes;
        found = start >= first && start <= end && bytes <= end - start;
    }
    pthread_mutex_unlock(&lock);
    return found;
}
static CUresult copy(void *to, const void *from, size_t bytes, CUdeviceptr on_device, uint64_t *count)
{
    if (failed) return ILLEGAL_ADDRESS;
    if (!is_allocated(on_device, bytes)) return INVALID_VALUE;
    memcpy(to, from, bytes);
    __atomic_fetch_add(count, bytes, __ATOMIC_RELAXED);
    return SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr *start, size_t bytes) { return allocate(start, bytes); }
CUresult cuMemAllocAsync(CUdeviceptr *start, size_t bytes, Handle stream) { return allocate(start, bytes); }
CUresult cuMemFree_v2(CUdeviceptr start) { return release(start); }
CUresult cuMemFreeAsync(CUdeviceptr start, Handle stream) { return release(start); }
CUresult cuMemAllocHost_v2(void **start, size_t bytes) { return (*start = malloc(bytes ? bytes : 1)) ? SUCCESS : OUT_OF_MEMORY; }
CUresult cuMemHostAlloc(void **start, size_t bytes, unsigned flags) { return cuMemAllocHost_v2(start, bytes); }
CUresult cuMemFreeHost(void *start) { free(start); return SUCCESS; }
CUresult cuMemGetInfo_v2(size_t *available, size_t *total)
{
    *total = memory();
    *available = *total - live_bytes;
    return SUCCESS;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, Handle stream)
{
    return copy((void *)to, from, bytes, to, &bytes_to_device);
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) { return cuMemcpyHtoDAsync_v2(to, from, bytes, NULL); }
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, Handle stream)
{
    return copy(to, (void *)from, bytes, from, &bytes_to_host);
}
CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) { return cuMemcpyDtoHAsync_v2(to, from, bytes, NULL); }
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, Handle stream)
{
    static uint64_t on_device;
    if (!is_allocated(from, bytes)) return INVALID_VALUE;
    return copy((void *)to, (void *)from, bytes, to, &on_device);
}
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) { return cuMemcpyDtoDAsync_v2(to, from, bytes, NULL); }
CUresult cuMemsetD8Async(CUdeviceptr start, unsigned char value, size_t bytes, Handle stream)
{
    if (!is_allocated(start, bytes)) return INVALID_VALUE;
    memset((void *)start, value, bytes);
    return SUCCESS;
}
/* CUDA_MEMCPY2D of cuda.h; memory types: 1 is the host's, 2 the device's. */
struct side {
    size_t x_bytes, y;
    int type;
    void *host;
    CUdeviceptr device;
    Handle array;
    size_t pitch;
};
struct copy_2d {
    struct side from, to;
    size_t width_bytes, height;
};
CUresult cuMemcpy2DAsync_v2(const struct copy_2d *it, Handle stream)
{
    size_t from_pitch = it->from.pitch ? it->from.pitch : it->width_bytes;
    size_t to_pitch = it->to.pitch ? it->to.pitch : it->width_bytes;
    char *from = it->from.type == 1 ? it->from.host : (char *)it->from.device;
    char *to = it->to.type == 1 ? it->to.host : (char *)it->to.device;
    for (size_t row = 0; row < it->height; row++) {
        char *from_row = from + (it->from.y + row) * from_pitch + it->from.x_bytes;
        char *to_row = to + (it->to.y + row) * to_pitch + it->to.x_bytes;
        int comes_from_host = it->from.type == 1;
        CUresult result = copy(to_row, from_row, it->width_bytes, (CUdeviceptr)(comes_from_host ? to_row : from_row),
                               comes_from_host ? &bytes_to_device : &bytes_to_host);
        if (result != SUCCESS) return result;
    }
    return SUCCESS;
}

/* ---- the driver and its devices ---- */

CUresult cuInit(unsigned flags) { started = 1; return SUCCESS; }
CUresult cuDriverGetVersion(int *version) { *version = (int)setting("STAND_IN_CUDA", 12080); return SUCCESS; }
CUresult cuGetErrorName(CUresult code, const char **name)
{
    *name = code == OUT_OF_MEMORY     ? "CUDA_ERROR_OUT_OF_MEMORY"
            : code == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
            : code == SUCCESS         ? "CUDA_SUCCESS"
                                      : "CUDA_ERROR_INVALID_VALUE";
    return SUCCESS;
}
CUresult cuGetErrorString(CUresult code, const char **text)
{
    *text = code == OUT_OF_MEMORY     ? "out of memory"
            : code == ILLEGAL_ADDRESS ? "an illegal memory access was encountered"
            : code == SUCCESS         ? "no error"
                                      : "invalid argument";
    return SUCCESS;
}
CUresult cuDeviceGetCount(int *count) { *count = (int)devices(); return SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    *device = ordinal;
    return ordinal >= 0 && ordinal < devices() ? SUCCESS : INVALID_DEVICE;
}
CUresult cuDeviceGetName(char *name, int length, CUdevice device)
{
    snprintf(name, (size_t)length, "stand-in, compute capability %ld.%ld", architecture() / 10, architecture() % 10);
    return SUCCESS;
}
CUresult cuDeviceGetUuid(unsigned char *uuid, CUdevice device) { memset(uuid, device, 16); return SUCCESS; }
CUresult cuDeviceGetUuid_v2(unsigned char *uuid, CUdevice device) { return cuDeviceGetUuid(uuid, device); }
CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) { *bytes = memory(); return SUCCESS; }
/* CUdevice_attribute of cuda.h; limits from the table of compute capabilities in NVIDIA's CUDA C++ programming guide, and the
 * multiprocessors of an H100 SXM. */
CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device)
{
    int arch = (int)architecture();
    int shared_opt_in = arch >= 90 ? 232448 : arch == 80 ? 166912 : 101376;
    switch (attribute) {
    case 1: case 2: case 3: *value = 1024; break;              /* threads of a block; its x, its y */
    case 4: *value = 64; break;                                /* z of a block */
    case 5: *value = 2147483647; break;                        /* x of the grid */
    case 6: case 7: *value = 65535; break;                     /* y and z of the grid */
    case 8: *value = 49152; break;                             /* shared memory of a block */
    case 10: *value = 32; break;                               /* threads of a warp */
    case 12: *value = 65536; break;                            /* registers of a block */
    case 16: *value = 132; break;                              /* multiprocessors */
    case 39: *value = arch == 89 ? 1536 : 2048; break;         /* threads of a multiprocessor */
    case 75: *value = arch / 10; break;                        /* compute capability */
    case 76: *value = arch % 10; break;
    case 81: *value = shared_opt_in + 1024; break;             /* shared memory of a multiprocessor */
    case 97: *value = shared_opt_in; break;                    /* shared memory that a block may ask for */
    default: *value = 1;
    }
    return SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(Handle *context, CUdevice device)
{
    *context = (Handle)(intptr_t)(0x1000 + device);
    return SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) { return SUCCESS; }
CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer) { *can = 0; return SUCCESS; }
CUresult cuCtxSetCurrent(Handle context) { return SUCCESS; }
CUresult cuCtxGetCurrent(Handle *context) { *context = (Handle)0x1000; return SUCCESS; }
CUresult cuCtxSynchronize(void) { return failed ? ILLEGAL_ADDRESS : SUCCESS; }

/* ---- streams and events: all that is asked of them is done already ---- */

static CUresult new_handle(Handle *handle)
{
    *handle = (Handle)(uintptr_t)(0x2000 + 16 * __atomic_fetch_add(&handles, 1, __ATOMIC_RELAXED));
    return SUCCESS;
}
static CUresult done(void) { return failed ? ILLEGAL_ADDRESS : SUCCESS; }
CUresult cuStreamCreate(Handle *stream, unsigned flags) { return new_handle(stream); }
CUresult cuStreamCreateWithPriority(Handle *stream, unsigned flags, int priority) { return new_handle(stream); }
CUresult cuStreamSynchronize(Handle stream) { return done(); }
CUresult cuStreamQuery(Handle stream) { return done(); }
CUresult cuStreamWaitEvent(Handle stream, Handle event, unsigned flags) { return done(); }
CUresult cuStreamDestroy_v2(Handle stream) { return SUCCESS; }
CUresult cuEventCreate(Handle *event, unsigned flags) { return new_handle(event); }
CUresult cuEventRecord(Handle event, Handle stream) { return done(); }
CUresult cuEventQuery(Handle event) { return done(); }
CUresult cuEventSynchronize(Handle event) { return done(); }
CUresult cuEventElapsedTime(float *milliseconds, Handle begin, Handle end) { *milliseconds = 0.001f; return done(); }
CUresult cuEventElapsedTime_v2(float *milliseconds, Handle begin, Handle end) { return cuEventElapsedTime(milliseconds, begin, end); }
CUresult cuEventDestroy_v2(Handle event) { return SUCCESS; }

/* ---- modules and launches ---- */

CUresult cuModuleLoadData(Handle *module, const void *image)
{
    /* A real driver refuses what is no PTX; NVRTC writes this word into each. */
    if (!strstr(image, ".version")) return INVALID_VALUE;
    __atomic_fetch_add(&modules, 1, __ATOMIC_RELAXED);
    return new_handle(module);
}
CUresult cuModuleUnload(Handle module) { return SUCCESS; }
/* A function's handle is one more than its kernel's place; modules with kernels of one name count together. */
CUresult cuModuleGetFunction(Handle *function, Handle module, const char *name)
{
    pthread_mutex_lock(&lock);
    size_t place = 0;
    while (place < kernel_count && strcmp(kernels[place].name, name)) place++;
    if (place == kernel_count) {
        kernels = grown(kernels, kernel_count, &kernel_room, sizeof *kernels);
        kernels[kernel_count++] = (struct kernel){strdup(name), 0};
    }
    *function = (Handle)(uintptr_t)(place + 1);
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}
CUresult cuFuncSetAttribute(Handle function, int attribute, int value) { return SUCCESS; }
CUresult cuFuncGetAttribute(int *value, int attribute, Handle function) { *value = 0; return SUCCESS; }
CUresult cuLaunchKernel(Handle function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                        unsigned block_z, unsigned shared_bytes, Handle stream, void **parameters, void **extra)
{
    int shared_most;
    cuDeviceGetAttribute(&shared_most, 97, 0);
    if (!grid_x || !grid_y || !grid_z || !block_x || !block_y || !block_z) return INVALID_VALUE;
    if (grid_y > 65535 || grid_z > 65535 || (uint64_t)block_x * block_y * block_z > 1024) return INVALID_VALUE;
    if (shared_bytes > (unsigned)shared_most) return INVALID_VALUE;
    pthread_mutex_lock(&lock);
    launches++;
    kernels[(uintptr_t)function - 1].launches++;
    long fails_at = setting("STAND_IN_FAILS_AT", 0);
    if (fails_at > 0 && launches >= (uint64_t)fails_at) failed = 1;
    pthread_mutex_unlock(&lock);
    return done();
}
CUresult cuTensorMapEncodeTiled(void *map) { return SUCCESS; }
CUresult cuTensorMapEncodeIm2col(void *map) { return SUCCESS; }
CUresult cuTensorMapEncodeIm2colWide(void *map) { return SUCCESS; }
