/* The emulated device: threads as coroutines on stacks of their own, and its memory, closed outside of kernels. */
#include "cuda_runtime.h"

#include "emulate.h"
#include "hopper.h"

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

ml_emulated_thread *ml_emulated_now;
ml_emulated_block ml_emulated_here;
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

/* Stacks are no power of two apart: what threads have at the same depth would share a few lines of the caches. */
enum {
    MAX_THREADS = 1024,
    MAX_WARPS = MAX_THREADS / 32,
    STACK_BYTES = (256 << 10) + 13 * 64,
    MAX_SHARED = 232448 /* a block's of Hopper */
};

typedef enum { READY, AT_BLOCK, AT_WARP, DONE, N_STATE } thread_state;

typedef struct {
    void *sp;
    ml_emulated_thread place;
} coroutine;

static coroutine threads[MAX_THREADS];
static unsigned char state_of[MAX_THREADS];
static int n_in[N_STATE][MAX_WARPS]; /* threads of a warp in a state */
static char *stacks;
static int n_thread, n_warp, current;
static void *scheduler_sp;
static const std::function<void()> *body;
static uint64_t slots[2][MAX_THREADS][4];
static unsigned order_seed;

/* Threads that run one after another before the scheduler looks again. */
static int queued[MAX_THREADS];
static int n_queued, next_queued;

uint64_t (*ml_emulated_slots())[4]
{
    return &slots[ml_emulated_now->turn++ % 2][ml_emulated_now->warp * 32];
}

static void die(const char *what)
{
    fprintf(stderr, "emulated CUDA device: %s\n", what);
    abort();
}

static void set_state(int i, thread_state state)
{
    n_in[state_of[i]][i / 32]--;
    n_in[state][i / 32]++;
    state_of[i] = (unsigned char)state;
}

/* The next thread that is queued; NULL: the scheduler. */
static coroutine *take_next()
{
    if (next_queued == n_queued) return NULL;
    current = queued[next_queued++];
    ml_emulated_now = &threads[current].place;
    return &threads[current];
}

static void leave(thread_state state)
{
    coroutine *t = &threads[current];
    set_state(current, state);
    coroutine *next = take_next();
    ml_emulated_switch(&t->sp, next ? next->sp : scheduler_sp);
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

/* ---- the matrix unit ---- */

/* A warp's product: the first lane that comes behind the barrier computes it, all take their part.  Operands of the
 * next product may be written meanwhile, sums not before all lanes have come to its barrier. */
typedef struct {
    float a[16][16], b[16][8], sum[16][8];
    unsigned n_done;
} warp_product;

static warp_product products[MAX_WARPS];
static unsigned n_product[MAX_THREADS]; /* that a thread has asked for */

static float half_of(uint32_t word, unsigned half)
{
    return __uint_as_float(half ? word & 0xffff0000u : word << 16);
}

/* Each sum in order of the inner dimension; row by row, so that the compiler takes columns together. */
static void multiply_warp(warp_product *w)
{
    for (int row = 0; row < 16; row++) {
        float sum[8] = { 0 };
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++) sum[j] += w->a[row][k] * w->b[k][j];
        memcpy(w->sum[row], sum, sizeof sum);
    }
}

void ml_emulated_mma_bf16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    unsigned lane = ml_emulated_now->lane, group = lane / 4, pair = lane % 4;
    warp_product *w = &products[ml_emulated_now->warp];
    for (unsigned half = 0; half < 2; half++) {
        for (unsigned i = 0; i < 4; i++) w->a[group + i % 2 * 8][i / 2 * 8 + 2 * pair + half] = half_of(a[i], half);
        for (unsigned i = 0; i < 2; i++) w->b[i * 8 + 2 * pair + half][group] = half_of(b[i], half);
    }
    unsigned number = ++n_product[current];
    ml_emulated_warp_barrier();
    if (w->n_done != number) {
        multiply_warp(w);
        w->n_done = number;
    }
    for (unsigned i = 0; i < 4; i++) c[i] += w->sum[group + i / 2 * 8][2 * pair + i % 2];
}

/* ---- copies beside the computation ---- */

typedef struct {
    void *shared;
    const void *global;
    int n_valid;
    unsigned group;
    uint64_t *barrier; /* not a copy but an arrival there */
} late_copy;

/* Copies are done as late as a thread may wait for them, or (order 1) at once.  Here: what a thread has not waited for,
 * oldest first, and the number of the group that it is filling. */
static std::vector<late_copy> late[MAX_THREADS];
static unsigned late_group[MAX_THREADS];
static int n_late_arrival; /* of the block */

/* Do the oldest n of a thread. */
static void finish_copies(int thread, size_t n)
{
    if (n == 0) return;
    std::vector<late_copy> &all = late[thread];
    for (size_t i = 0; i < n; i++) {
        if (all[i].barrier) {
            n_late_arrival--;
            ml_emulated_barrier_arrive(all[i].barrier);
            continue;
        }
        memset(all[i].shared, 0, 16);
        if (all[i].n_valid) memcpy(all[i].shared, all[i].global, (size_t)all[i].n_valid);
    }
    all.erase(all.begin(), all.begin() + (long)n);
}

void ml_emulated_copy_16(void *shared, const void *global, int n_valid)
{
    if ((uintptr_t)shared % 16 || (n_valid && (uintptr_t)global % 16)) die("an asynchronous copy that is not aligned");
    late[current].push_back({ shared, global, n_valid, late_group[current], NULL });
    if (order_seed == 1) finish_copies(current, 1); /* as early as may be */
}

void ml_emulated_copy_arrive(uint64_t *barrier)
{
    late[current].push_back({ NULL, NULL, 0, late_group[current], barrier });
    n_late_arrival++;
    /* In order 2 while products (hopper.cpp) are as late as they may be: a buffer given back too early is overwritten.
     */
    if (order_seed == 1 || order_seed == 2) finish_copies(current, late[current].size());
}

void ml_emulated_copy_finish(uint64_t *barrier)
{
    for (int t = 0; t < n_thread && n_late_arrival > 0; t++) {
        size_t n = 0;
        for (size_t i = 0; i < late[t].size(); i++)
            if (late[t][i].barrier == barrier) n = i + 1;
        finish_copies(t, n);
    }
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
    finish_copies(current, n);
}

static void run_thread()
{
    (*body)();
    leave(DONE);
    die("a finished thread went on");
}

static void start(int i)
{
    coroutine *t = &threads[i];
    set_state(i, READY);
    late[i].clear();
    t->place.turn = 0;
    n_product[i] = products[i / 32].n_done = 0;
    void **top = (void **)(stacks + (size_t)(i + 1) * STACK_BYTES) - 1;
    *--top = (void *)run_thread; /* `ret` goes there with the alignment of a call */
    for (int r = 0; r < 6; r++) *--top = NULL;
    t->sp = top;
}

static int count(thread_state state)
{
    int n = 0;
    for (int w = 0; w < n_warp; w++) n += n_in[state][w];
    return n;
}

/* All threads that are in one state become ready. */
static void release(thread_state state, int first, int end)
{
    for (int i = first; i < end; i++)
        if (state_of[i] == state) set_state(i, READY);
}

static int end_of_warp(int w)
{
    return 32 * w + 32 < n_thread ? 32 * w + 32 : n_thread;
}

/* Let a warp go on when all of it that is left has arrived.  Where others of it are at the block's barrier, it stays:
 * found out by no progress. */
static bool release_warp(int w)
{
    if (n_in[AT_WARP][w] == 0 || n_in[READY][w] + n_in[AT_BLOCK][w] > 0) return false;
    release(AT_WARP, 32 * w, end_of_warp(w));
    return true;
}

static bool release_warps()
{
    bool any = false;
    for (int w = 0; w < n_warp; w++) any = release_warp(w) || any;
    return any;
}

static bool release_block()
{
    int n_at = count(AT_BLOCK);
    if (n_at == 0 || n_at + count(DONE) != n_thread) return false;
    release(AT_BLOCK, 0, n_thread);
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

static void queue_thread(int i)
{
    if (state_of[i] == READY) queued[n_queued++] = i;
}

/* What is queued, each thread as far as the next barrier of any kind. */
static bool run_queued()
{
    next_queued = 0;
    coroutine *first = take_next();
    if (!first) return false;
    ml_emulated_switch(&scheduler_sp, first->sp);
    n_queued = 0;
    return true;
}

static bool run_round()
{
    for (int i = 0; i < n_thread; i++) queue_thread(pick(i));
    return run_queued();
}

/* Warp after warp as far as the block's next barrier: where that is missing, one warp is far ahead of the others. */
static bool run_warps()
{
    bool ran = false;
    for (int i = 0; i < n_warp; i++) {
        int w = order_seed % 2 ? n_warp - 1 - i : i, first = 32 * w, end = end_of_warp(w);
        do {
            for (int t = first; t < end; t++) queue_thread(order_seed % 2 ? first + end - 1 - t : t);
            ran = run_queued() || ran;
        } while (release_warp(w));
    }
    return ran;
}

static void run_block()
{
    for (;;) {
        bool ran = order_seed == 1 || order_seed == 2 ? run_warps() : run_round();
        if (count(DONE) == n_thread) return;
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

/* Of a launch: no thread of it has begun. */
static void number_threads(dim3 block)
{
    n_warp = (n_thread + 31) / 32;
    memset(n_in, 0, sizeof n_in);
    for (int i = 0; i < n_thread; i++) {
        unsigned n = (unsigned)i;
        threads[i].place.threadIdx = dim3(n % block.x, n / block.x % block.y, n / block.x / block.y);
        threads[i].place.lane = n % 32;
        threads[i].place.warp = n / 32;
        state_of[i] = DONE;
        n_in[DONE][i / 32]++;
    }
}

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
    ml_emulated_here.blockDim = block;
    ml_emulated_here.gridDim = grid;
    number_threads(block);
    open_memory(true);
    uint64_t n = (uint64_t)grid.x * grid.y * grid.z;
    for (uint64_t b = 0; b < n; b++) {
        uint64_t at = order_seed == 0 ? b : n - 1 - b;
        memset(dynamic, 0xff, shared_bytes); /* NaN */
        ml_emulated_here.blockIdx =
            dim3((unsigned)(at % grid.x), (unsigned)(at / grid.x % grid.y), (unsigned)(at / grid.x / grid.y));
        for (int i = 0; i < n_thread; i++) start(i);
        n_late_arrival = 0;
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
static const size_t STRETCH = (size_t)64 << 30, KEPT_BYTES = (size_t)64 << 20, HUGE_PAGE = (size_t)2 << 20;
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

/* Huge pages where possible: opening and closing takes as long as there are pages. */
static bool make_stretch()
{
    void *p = mmap(NULL, STRETCH + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return false;
    char *base = (char *)p + (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    (void)madvise(base, STRETCH, MADV_HUGEPAGE);
    if (mprotect(base, KEPT_BYTES, PROT_READ | PROT_WRITE)) return false;
    memset(base, 0xff, KEPT_BYTES); /* NaN */
    if (mprotect(base, KEPT_BYTES, PROT_NONE)) return false;
    device_base = base;
    return true;
}

cudaError_t cudaMalloc(void **p, size_t n_bytes)
{
    size_t total = whole_pages(n_bytes);
    if (!device_base && !make_stretch()) return cudaErrorMemoryAllocation;
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
    /* A little is kept, with what is written there: whoever gets it next finds it, as on a GPU. */
    size_t from = end > KEPT_BYTES ? end : KEPT_BYTES;
    if (device_used > from) (void)madvise(device_base + from, device_used - from, MADV_DONTNEED);
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
