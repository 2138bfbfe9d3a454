/* The emulated device: threads as coroutines on stacks of their own, and its memory, closed outside of kernels. */
#include "cuda_runtime.h"

#include "emulate.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <iterator>
#include <map>
#include <vector>

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

#ifndef __x86_64__
#error "the emulated CUDA device switches stacks for x86-64"
#endif

ml_emulated_thread ml_emulated_now;
void *ml_emulated_dynamic;

/* ---- coroutines ---- */

/* Save the callee's registers and the stack pointer in *from, go on where `to` was left. */
extern "C" void ml_emulated_switch(void **from, void *to);
asm(R"(
.text
.globl ml_emulated_switch
.type ml_emulated_switch, @function
ml_emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size ml_emulated_switch, .-ml_emulated_switch
)");

enum { MAX_THREADS = 1024, STACK_BYTES = 256 << 10, MAX_SHARED = 232448 /* a block's of Hopper */ };

typedef enum { READY, AT_BLOCK, AT_WARP, DONE } thread_state;

typedef struct {
    void *sp;
    thread_state state;
    ml_emulated_thread place;
} coroutine;

static coroutine threads[MAX_THREADS];
static char *stacks;
static int n_thread, current;
static void *scheduler_sp;
static const std::function<void()> *body;
static uint64_t slots[MAX_THREADS][8];
static unsigned order_seed;

uint64_t (*ml_emulated_slots())[8]
{
    return slots;
}

static void die(const char *what)
{
    fprintf(stderr, "emulated CUDA device: %s\n", what);
    abort();
}

static void leave(thread_state state)
{
    coroutine *t = &threads[current];
    t->state = state;
    t->place = ml_emulated_now;
    ml_emulated_switch(&t->sp, scheduler_sp);
}

void ml_emulated_block_barrier()
{
    leave(AT_BLOCK);
}

void ml_emulated_warp_barrier()
{
    leave(AT_WARP);
}

void ml_emulated_yield()
{
    leave(READY);
}

int ml_emulated_thread_id()
{
    return current;
}

unsigned ml_emulated_order()
{
    return order_seed;
}

/* ---- copies beside the computation ---- */

typedef struct {
    void *shared;
    const void *global;
    int n_valid;
    unsigned group;
} late_copy;

/* Copies are done as late as a thread may wait for them, or (order 1) at once.  Here: what a thread has not waited for,
 * oldest first, and the number of the group that it is filling. */
static std::vector<late_copy> late[MAX_THREADS];
static unsigned late_group[MAX_THREADS];

/* Do the oldest n. */
static void finish_copies(size_t n)
{
    std::vector<late_copy> &all = late[current];
    for (size_t i = 0; i < n; i++) {
        memset(all[i].shared, 0, 16);
        if (all[i].n_valid) memcpy(all[i].shared, all[i].global, (size_t)all[i].n_valid);
    }
    all.erase(all.begin(), all.begin() + (long)n);
}

void ml_emulated_copy_16(void *shared, const void *global, int n_valid)
{
    if ((uintptr_t)shared % 16 || (n_valid && (uintptr_t)global % 16)) die("an asynchronous copy that is not aligned");
    late[current].push_back({ shared, global, n_valid, late_group[current] });
    if (order_seed == 1) finish_copies(1); /* as early as may be */
}

void ml_emulated_copy_commit()
{
    late_group[current]++;
}

void ml_emulated_copy_wait(int n_open)
{
    std::vector<late_copy> &all = late[current];
    size_t n = 0;
    /* A copy in no group yet is not waited for either. */
    while (n < all.size() && (int)(late_group[current] - all[n].group) > n_open) n++;
    finish_copies(n);
}

static void run_thread()
{
    (*body)();
    leave(DONE);
    die("a finished thread went on");
}

static void start(int i, dim3 block, dim3 grid, dim3 at)
{
    coroutine *t = &threads[i];
    unsigned n = (unsigned)i;
    t->state = READY;
    late[i].clear();
    t->place.threadIdx = dim3(n % block.x, n / block.x % block.y, n / block.x / block.y);
    t->place.blockIdx = at;
    t->place.blockDim = block;
    t->place.gridDim = grid;
    t->place.lane = n % 32;
    t->place.warp = n / 32;
    void **top = (void **)(stacks + (size_t)(i + 1) * STACK_BYTES) - 1;
    *--top = (void *)run_thread; /* `ret` goes there with the alignment of a call */
    for (int r = 0; r < 6; r++) *--top = NULL;
    t->sp = top;
}

/* Let the warp that begins with thread `first` go on when all of it that is left has arrived.  Where others of it are
 * at the block's barrier, it stays: found out by no progress. */
static bool release_warp(int first)
{
    int end = first + 32 < n_thread ? first + 32 : n_thread, n_at = 0, n_live = 0;
    for (int i = first; i < end; i++) {
        n_at += threads[i].state == AT_WARP;
        n_live += threads[i].state != DONE;
    }
    if (n_at == 0 || n_at != n_live) return false;
    for (int i = first; i < end; i++)
        if (threads[i].state == AT_WARP) threads[i].state = READY;
    return true;
}

static bool release_warps()
{
    bool any = false;
    for (int w = 0; w < n_thread; w += 32) any = release_warp(w) || any;
    return any;
}

static bool release_block()
{
    int n_at = 0, n_live = 0;
    for (int i = 0; i < n_thread; i++) {
        n_at += threads[i].state == AT_BLOCK;
        n_live += threads[i].state != DONE;
    }
    if (n_at == 0 || n_at != n_live) return false;
    for (int i = 0; i < n_thread; i++)
        if (threads[i].state == AT_BLOCK) threads[i].state = READY;
    return true;
}

/* The order of threads in one round: 0 as numbered, others shuffled. */
static int pick(int i)
{
    if (order_seed == 0) return i;
    unsigned stride = 2 * (order_seed % 499) + 1; /* odd, and coprime to n where n is a power of two */
    if (n_thread & (n_thread - 1)) stride = 1;
    return (int)(((unsigned)i * stride + order_seed) % (unsigned)n_thread);
}

static void run_thread_on(int i)
{
    current = i;
    ml_emulated_now = threads[i].place;
    ml_emulated_switch(&scheduler_sp, threads[i].sp);
}

/* All threads as far as the next barrier of any kind. */
static bool run_round()
{
    bool ran = false;
    for (int i = 0; i < n_thread; i++) {
        int at = pick(i);
        if (threads[at].state != READY) continue;
        run_thread_on(at);
        ran = true;
    }
    return ran;
}

/* Warp after warp as far as the block's next barrier: where that is missing, one warp is far ahead of the others. */
static bool run_warps()
{
    bool ran = false;
    int n_warp = (n_thread + 31) / 32;
    for (int i = 0; i < n_warp; i++) {
        int first = 32 * (order_seed % 2 ? n_warp - 1 - i : i), end = first + 32 < n_thread ? first + 32 : n_thread;
        do {
            for (int t = first; t < end; t++) {
                int at = order_seed % 2 ? first + end - 1 - t : t;
                if (threads[at].state != READY) continue;
                run_thread_on(at);
                ran = true;
            }
        } while (release_warp(first));
    }
    return ran;
}

static void run_block()
{
    for (;;) {
        bool ran = order_seed == 1 || order_seed == 2 ? run_warps() : run_round(), live = false;
        for (int i = 0; i < n_thread; i++) live = live || threads[i].state != DONE;
        if (!live) return;
        if (release_warps() || release_block()) continue;
        if (!ran) die("a barrier that not all threads of the block or warp reach");
    }
}

static void open_memory(bool open);

struct ml_emulated_graph {
    std::vector<std::function<void()>> work;
};
static ml_emulated_graph *capturing;
static uint64_t n_graph_launch;

void ml_emulate_launch(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &thread)
{
    if (capturing) {
        capturing->work.push_back([=]() { ml_emulate_launch(grid, block, shared_bytes, thread); });
        return;
    }
    static char dynamic[MAX_SHARED] __attribute__((aligned(1024)));
    n_thread = (int)(block.x * block.y * block.z);
    if (n_thread < 1 || n_thread > MAX_THREADS || grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 ||
        grid.z > 65535 || grid.x > 0x7fffffffu)
        die("a launch with an illegal number of threads or blocks");
    if (shared_bytes > MAX_SHARED) die("more shared memory than a block can have");
    if (!stacks) {
        void *p = mmap(NULL, (size_t)MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) die("no memory for stacks");
        stacks = (char *)p;
    }
    body = &thread;
    ml_emulated_dynamic = dynamic;
    open_memory(true);
    uint64_t n = (uint64_t)grid.x * grid.y * grid.z;
    for (uint64_t b = 0; b < n; b++) {
        uint64_t at = order_seed == 0 ? b : n - 1 - b;
        memset(dynamic, 0xff, shared_bytes); /* NaN */
        dim3 where((unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / grid.x / grid.y));
        for (int i = 0; i < n_thread; i++) start(i, block, grid, where);
        run_block();
    }
    open_memory(false);
}

extern "C" void ml_emulate_set_order(unsigned seed)
{
    order_seed = seed;
}

/* ---- memory ---- */

/* One stretch of addresses, opened and closed as a whole; allocations lie one after another, and what is freed is
 * used again once everything behind it is freed as well. */
struct region {
    size_t n_bytes;
};
static std::map<char *, region> regions;
static const size_t STRETCH = (size_t)64 << 30;
static size_t capacity = getenv("MOONLIGHT_EMULATED_BYTES") ? strtoull(getenv("MOONLIGHT_EMULATED_BYTES"), NULL, 10)
                                                            : STRETCH; /* what the device seems to have */
static char *device_base;
static size_t device_used;

static size_t whole_pages(size_t n_bytes)
{
    return (n_bytes + 4095) & ~(size_t)4095;
}

static void open_memory(bool open)
{
    if (device_used > 0) mprotect(device_base, device_used, open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

cudaError_t cudaMalloc(void **p, size_t n_bytes)
{
    size_t total = whole_pages(n_bytes);
    if (!device_base) {
        void *base = mmap(NULL, STRETCH, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (base == MAP_FAILED) return cudaErrorMemoryAllocation;
        (void)madvise(base, STRETCH, MADV_HUGEPAGE); /* fewer pages to open and close */
        device_base = (char *)base;
    }
    if (total > capacity || device_used > capacity - total) return cudaErrorMemoryAllocation;
    *p = device_base + device_used;
    regions[(char *)*p] = { total };
    device_used += total;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    auto found = regions.find((char *)p);
    if (found == regions.end()) return cudaErrorUnknown;
    regions.erase(found);
    size_t end = 0; /* of the last allocation left */
    if (!regions.empty()) {
        auto last = std::prev(regions.end());
        end = (size_t)(last->first - device_base) + last->second.n_bytes;
    }
    if (end == device_used) return cudaSuccess;
    (void)madvise(device_base + end, device_used - end, MADV_DONTNEED);
    (void)mprotect(device_base + end, device_used - end, PROT_NONE);
    device_used = end;
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t n_bytes, unsigned)
{
    *p = malloc(n_bytes ? n_bytes : 1);
    if (!*p) return cudaErrorMemoryAllocation;
    memset(*p, 0xff, n_bytes); /* NaN */
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    free(p);
    return cudaSuccess;
}

/* Is [p, p + n) on the device?  Straddling the end of a region is an error anywhere. */
static bool is_inside(const void *p, size_t n_bytes)
{
    auto after = regions.upper_bound((char *)p);
    if (after == regions.begin()) return false;
    --after;
    char *end = after->first + after->second.n_bytes;
    if ((char *)p >= end) return false;
    if ((char *)p + n_bytes > end) die("a copy past the end of device memory");
    return true;
}

/* Work of a stream made with cudaStreamNonBlocking waits until somebody waits for it, as late as that may happen; that
 * of other streams is done at once. */
struct ml_emulated_stream {
    bool late;
    std::deque<std::function<void()>> work;
    uint64_t n_done, n_queued;
};
struct ml_emulated_event {
    ml_emulated_stream *stream;
    uint64_t at; /* work of the stream that comes before */
};

static void catch_up(ml_emulated_stream *stream, uint64_t until)
{
    while (stream->n_done < until) {
        std::function<void()> next = stream->work.front();
        stream->work.pop_front();
        stream->n_done++;
        next();
    }
}

static void queue(ml_emulated_stream *stream, const std::function<void()> &work)
{
    if (!stream || !stream->late) {
        work();
        return;
    }
    stream->work.push_back(work);
    stream->n_queued++;
}

static void pass(const ml_emulated_event &event)
{
    if (event.stream && event.stream->late) catch_up(event.stream, event.at);
}

/* The device is lost after so many copies; negative: never. */
static long copies_left = getenv("MOONLIGHT_EMULATED_LOSS") ? atol(getenv("MOONLIGHT_EMULATED_LOSS")) : -1;

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t n_bytes, cudaMemcpyKind kind, cudaStream_t stream)
{
    if (copies_left == 0) return cudaErrorUnknown;
    if (copies_left > 0) copies_left--;
    if (capturing && kind != cudaMemcpyDeviceToDevice) die("a copy to or from this machine's memory in a graph");
    if (capturing) {
        capturing->work.push_back([=]() { (void)cudaMemcpyAsync(dst, src, n_bytes, kind, stream); });
        return cudaSuccess;
    }
    bool to = kind != cudaMemcpyDeviceToHost, from = kind != cudaMemcpyHostToDevice;
    if (is_inside(dst, n_bytes) != to || is_inside(src, n_bytes) != from) die("a copy in another direction than said");
    queue(stream, [=]() {
        open_memory(true);
        memcpy(dst, src, n_bytes);
        open_memory(false);
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *dst, int value, size_t n_bytes, cudaStream_t stream)
{
    if (capturing) {
        capturing->work.push_back([=]() { (void)cudaMemsetAsync(dst, value, n_bytes, stream); });
        return cudaSuccess;
    }
    if (!is_inside(dst, n_bytes)) die("clearing memory that is not the device's");
    open_memory(true);
    memset(dst, value, n_bytes);
    open_memory(false);
    return cudaSuccess;
}

/* ---- the rest of the runtime ---- */

static int n_device = 1;

extern "C" void ml_emulate_set_device_count(int n)
{
    n_device = n;
}

cudaError_t cudaGetDeviceCount(int *n)
{
    *n = n_device;
    return n_device > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *prop, int)
{
    memset(prop, 0, sizeof *prop);
    snprintf(prop->name, sizeof prop->name, "emulated device");
    prop->major = 9;
    prop->multiProcessorCount = 4;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr, int)
{
    *value = MAX_SHARED;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int)
{
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    *total = capacity;
    *available = capacity > device_used ? capacity - device_used : 0;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    *stream = new ml_emulated_stream();
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    *stream = new ml_emulated_stream();
    (*stream)->late = flags == cudaStreamNonBlocking && order_seed != 0;
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode)
{
    if (capturing) die("a capture within a capture");
    capturing = new ml_emulated_graph();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph)
{
    if (!capturing) die("the end of a capture that did not begin");
    *graph = capturing;
    capturing = NULL;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    *exec = new ml_emulated_graph(*graph);
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *, size_t *n)
{
    *n = graph->work.size();
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t)
{
    n_graph_launch++;
    for (auto &work : exec->work) work();
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    delete exec;
    return cudaSuccess;
}

extern "C" unsigned long long ml_emulate_count_graph_launches(void)
{
    return n_graph_launch;
}

static unsigned long long n_wait;

extern "C" unsigned long long ml_emulate_count_waits(void)
{
    return n_wait;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    n_wait++;
    if (capturing) die("waiting for a stream that is being captured");
    catch_up(stream, stream->n_queued);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    (void)cudaStreamSynchronize(stream);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    ml_emulated_event now = *event; /* what it stands for may change before the stream comes here */
    queue(stream, [=]() { pass(now); });
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    *event = new ml_emulated_event();
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    return cudaEventCreate(event);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    *event = { stream, stream ? stream->n_queued : 0 };
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    n_wait++;
    pass(*event);
    return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t, cudaEvent_t)
{
    *ms = 0;
    return cudaSuccess;
}

cudaError_t cudaGetLastError()
{
    return cudaSuccess;
}

const char *cudaGetErrorString(cudaError_t)
{
    return "an error of the emulated device";
}
