/* A task is a few panels of rows.  Their blocks are unpacked a chunk of k at a time and all tokens pass by before the
 * next chunk, so unpacking is shared by the tokens; for few tokens the chunk is small and stays in L1. */
#include "ops/cpu/qmatmul.h"

#include "base/cpu.h"
#include "base/thread.h"
#include "ops/cpu/qmatmul_kernel.h"

#include <assert.h>
#include <string.h>

enum {
    FEW_TOKENS = 4,              /* up to which a product is limited by reading the weights */
    CHUNK_BYTES = 92160,         /* of unpacked weights for many tokens: 2048 elements of 32 rows, part of L2 */
    SMALL_CHUNK_BYTES = 11520,   /* for few: 256 elements of 32 rows, part of L1 */
    MIN_PARALLEL = 200000,       /* multiply-adds below which starting the threads costs more than it saves */
    TASK_BYTES = 64 * 1024,      /* of stored weights: the shortest task for few tokens */
    QUANTIZE_PER_TASK = 32768,   /* elements of x */
    MAX_TILE_AHEAD = 320 * 1024, /* of stored weights between asking and using */
    AHEAD = 4096,
    DIRECT_AHEAD = 8192,
    CACHE_LINE = 64,
};

static const ml_q_kernel *choose_kernel(void)
{
#if defined(__x86_64__)
    ml_isa isa = ml_cpu_isa();
    if (isa >= ML_ISA_AVX512VNNI) return &ml_q_kernel_avx512vnni;
    if (isa == ML_ISA_AVXVNNI) return &ml_q_kernel_avxvnni;
    if (isa >= ML_ISA_AVX2) return &ml_q_kernel_avx2;
#elif defined(__aarch64__)
    if (ml_cpu_isa() == ML_ISA_NEONDOT) return &ml_q_kernel_neondot;
#endif
    return &ml_q_kernel_scalar;
}

static const uint8_t place_as_stored[ML_Q_MAX_WORD] = {
    0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25,
    26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51,
};
/* Stored: 2 x 16 words of low bits, 2 x 8 of high bits, 4 of scales (tensor/blocks.h). */
static const uint8_t place_q6_k[ML_Q_MAX_WORD] = {
    4,  7,  10, 13, 16, 19, 22, 25, 5,  8,  11, 14, 17, 20, 23, 26, 28, 31, 34, 37, 40, 43, 46, 49, 29, 32,
    35, 38, 41, 44, 47, 50, 6,  9,  12, 15, 18, 21, 24, 27, 30, 33, 36, 39, 42, 45, 48, 51, 0,  1,  2,  3,
};

static ml_q_format format_of(ml_dtype dtype)
{
    static const struct {
        int sub_words, code_bits, zero;
        bool has_min;
    } type[ML_N_DTYPE] = {
        [ML_Q8_0] = { 8, 8, 128, false }, [ML_Q4_0] = { 8, 4, 8, false }, [ML_Q4_1] = { 8, 4, 0, true },
        [ML_Q5_0] = { 8, 5, 16, false },  [ML_Q5_1] = { 8, 5, 0, true },  [ML_IQ4_NL] = { 8, 8, 128, false },
        [ML_Q2_K] = { 4, 2, 0, true },    [ML_Q3_K] = { 4, 3, 0, false }, [ML_Q4_K] = { 8, 4, 0, true },
        [ML_Q5_K] = { 8, 5, 0, true },    [ML_Q6_K] = { 4, 6, 0, false }, [ML_IQ4_XS] = { 8, 8, 0, false },
    };
    assert(ml_dtype_is_block(dtype));
    size_t n_bytes = ml_dtype_block_bytes(dtype);
    bool super = ml_dtype_block_length(dtype) == 256, has_half = n_bytes % 4 != 0;
    /* Blocks of 32 begin with the half, super-blocks end with it. */
    return (ml_q_format){ .super = super,
                          .has_min = type[dtype].has_min,
                          .sub_words = type[dtype].sub_words,
                          .code_bits = type[dtype].code_bits,
                          .zero = type[dtype].zero,
                          .n_word = (int)(n_bytes / 4),
                          .place = dtype == ML_Q6_K ? place_q6_k : place_as_stored,
                          .word_at = has_half && !super ? 2 : 0,
                          .fifth_at = dtype == ML_Q5_0   ? 0
                                      : dtype == ML_Q5_1 ? 1
                                                         : -1,
                          .half_at = !has_half ? -1
                                     : super   ? (int)n_bytes - 2
                                               : 0,
                          .unit_size = super ? sizeof(ml_q_super) : sizeof(ml_q_block) };
}

static size_t align_up(size_t n)
{
    return (n + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

size_t ml_qx_bytes(ml_dtype w_dtype, int64_t n_row, int64_t k)
{
    size_t n = (size_t)(n_row * k), unit = (size_t)ml_dtype_block_length(w_dtype);
    return align_up(n) + align_up(n / 16 * sizeof(int16_t)) + align_up(n / 64 * sizeof(int32_t)) +
           align_up(n / unit * sizeof(float));
}

typedef struct {
    ml_qx qx;
    const float *x;
    int64_t x_stride;
} quantize_work;

/* See ml_qx: sum [k / 16] -> pair [k / 64]. */
static void pair_sums(int64_t k, const int16_t *sum, int32_t *pair)
{
    for (int64_t i = 0; i < k / 64; i += 2, sum += 8) {
        for (int odd = 0; odd < 2; odd++) {
            int first = sum[2 * odd] + sum[2 * odd + 1], third = sum[2 * odd + 4] + sum[2 * odd + 5];
            pair[i + odd] = (int32_t)(((uint32_t)first & 0xffffu) | (uint32_t)third << 16);
        }
    }
}

static void quantize_rows(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    const quantize_work *w = arg;
    const ml_qx *qx = &w->qx;
    for (int64_t i = begin; i < end; i++) {
        choose_kernel()->quantize(qx->unit, qx->k, w->x + i * w->x_stride, (int8_t *)qx->q + i * qx->k,
                                  (int16_t *)qx->sum + i * (qx->k / 16), (float *)qx->d + i * (qx->k / qx->unit));
        if (qx->unit == 256) pair_sums(qx->k, qx->sum + i * (qx->k / 16), (int32_t *)qx->pair + i * (qx->k / 64));
    }
}

ml_qx ml_qx_make(ml_dtype w_dtype, const float *x, int64_t x_stride, int64_t n_row, int64_t k, void *memory)
{
    assert(k % ml_dtype_block_length(w_dtype) == 0);
    size_t n = (size_t)(n_row * k);
    char *at = memory;
    quantize_work work = { { .n_row = n_row, .k = k, .unit = (int)ml_dtype_block_length(w_dtype) }, x, x_stride };
    work.qx.q = (const int8_t *)at;
    work.qx.sum = (const int16_t *)(void *)(at + align_up(n));
    work.qx.pair = (const int32_t *)(void *)(at + align_up(n) + align_up(n / 16 * sizeof(int16_t)));
    work.qx.d = (const float *)(const void *)((const char *)work.qx.pair + align_up(n / 64 * sizeof(int32_t)));
    if (k > 0) ml_parallel_for(n_row, QUANTIZE_PER_TASK / k + 1, quantize_rows, &work);
    return work.qx;
}

/* Words and halves of unit `unit` of the panel's 16 rows, where they are or gathered into `scratch`. */
typedef struct {
    _Alignas(64) uint32_t word[ML_Q_MAX_WORD][ML_Q_ROWS];
    uint16_t half[ML_Q_ROWS];
} gathered;

typedef struct {
    const ml_qmatmul *p;
    const ml_q_kernel *kernel;
    ml_q_format format;
    int64_t n_unit;     /* per row */
    size_t block_bytes; /* of one row */
    int64_t chunk;      /* units unpacked at a time */
    int64_t end;        /* row behind the last of the task: what lies there is somebody else's to ask for */
} product;

static product prepare(const ml_qmatmul *p)
{
    product q = { .p = p, .kernel = choose_kernel(), .format = format_of(p->w_dtype) };
    assert(p->x->unit == ml_dtype_block_length(p->w_dtype) && p->x->k == p->k);
    q.n_unit = p->k / p->x->unit;
    q.block_bytes = ml_dtype_block_bytes(p->w_dtype);
    int64_t bytes = p->n_token <= FEW_TOKENS ? SMALL_CHUNK_BYTES : CHUNK_BYTES;
    q.chunk = bytes / (int64_t)(q.format.unit_size * ML_Q_MAX_PANEL);
    return q;
}

/* The words of one unit of the panel that begins at first_row, and its halves: in w, or gathered into g.  Beyond the
 * last row that one is read again and dropped at the end.  Of panels, memory is asked for a tile of rows ahead: the
 * panels of a tile are read side by side, each a stream that ends with the tile.  (A tile too large for L2 asks for
 * what is near.)  Of rows, each unit asks for its share of the next tile.  Beyond the end of w that is harmless. */
static ml_q_words find_words(const product *q, int64_t first_row, int64_t unit, gathered *g, const uint16_t **half,
                             int64_t *ahead)
{
    const ml_qmatmul *p = q->p;
    size_t row_bytes = (size_t)q->n_unit * q->block_bytes, panel_bytes = ML_Q_ROWS * row_bytes;
    size_t tile_bytes = (size_t)q->kernel->n_panel * panel_bytes;
    const char *panel = (const char *)p->w + (size_t)(first_row / ML_Q_ROWS) * panel_bytes;
    size_t share = (size_t)unit * ML_Q_ROWS * q->block_bytes;
    if (p->w_layout == ML_LAYOUT_PANELS) {
        ml_q_words word = (const void *)(panel + share);
        *half = (const uint16_t *)(const void *)word[q->format.n_word];
        bool last = first_row + (int64_t)q->kernel->n_panel * ML_Q_ROWS >= q->end;
        *ahead = tile_bytes > MAX_TILE_AHEAD ? AHEAD : last ? 0 : (int64_t)tile_bytes;
        return word;
    }
    const uint8_t *row[ML_Q_ROWS];
    for (int r = 0; r < ML_Q_ROWS; r++) {
        int64_t i = first_row + r < p->n ? first_row + r : p->n - 1;
        row[r] = (const uint8_t *)p->w + (size_t)i * row_bytes + (size_t)unit * q->block_bytes;
    }
    q->kernel->gather(&q->format, row, panel + tile_bytes + share, g->word, g->half);
    *half = g->half;
    *ahead = 0;
    return (ml_q_words)g->word;
}

/* A tile of tokens: where it reads x, and its sums so far. */
typedef struct {
    ml_q_tile x;
    int size; /* index of the kernel's tile sizes */
    _Alignas(64) float acc[ML_Q_MAX_TOKEN * ML_Q_MAX_PANEL * ML_Q_ROWS];
} tile;

/* The largest tile that fits into what is left of the tokens. */
static void place_tile(const product *q, int64_t token, int64_t first_unit, tile *t)
{
    const ml_qmatmul *p = q->p;
    const ml_qx *x = p->x;
    t->size = 0;
    while (q->kernel->n_token[t->size] > p->n_token - token) t->size++;
    for (int i = 0; i < q->kernel->n_token[t->size]; i++) {
        int64_t from = p->x_row ? p->x_row[token + i] : token + i;
        t->x.q[i] = x->q + from * x->k + first_unit * x->unit;
        t->x.sum[i] = x->sum + (from * x->k + first_unit * x->unit) / 16;
        t->x.pair[i] = x->pair + (from * x->k + first_unit * x->unit) / 64;
        t->x.d[i] = x->d + from * q->n_unit + first_unit;
    }
}

static void advance_tile(const product *q, int64_t n_unit, tile *t)
{
    int64_t n = n_unit * q->p->x->unit;
    for (int i = 0; i < q->kernel->n_token[t->size]; i++) {
        t->x.q[i] += n;
        t->x.sum[i] += n / 16;
        t->x.pair[i] += n / 64;
        t->x.d[i] += n_unit;
    }
}

/* Sums from y (zero before the first unit), and to y: the rows of a tile that the product has. */
static void load_sums(const product *q, int64_t token, int64_t row, bool first, tile *t)
{
    const ml_qmatmul *p = q->p;
    memset(t->acc, 0, sizeof t->acc);
    int64_t width = q->kernel->n_panel * ML_Q_ROWS, n = p->n - row < width ? p->n - row : width;
    for (int i = 0; i < q->kernel->n_token[t->size] && !first; i++) {
        memcpy(t->acc + i * width, p->y + (token + i) * p->y_stride + row, (size_t)n * sizeof *t->acc);
    }
}

static void store_sums(const product *q, int64_t token, int64_t row, const tile *t)
{
    const ml_qmatmul *p = q->p;
    int64_t width = q->kernel->n_panel * ML_Q_ROWS, n = p->n - row < width ? p->n - row : width;
    for (int i = 0; i < q->kernel->n_token[t->size]; i++) {
        memcpy(p->y + (token + i) * p->y_stride + row, t->acc + i * width, (size_t)n * sizeof *t->acc);
    }
}

/* The first row of a panel of the tile of rows at `row`; beyond the product the first panel again. */
static int64_t panel_row(const product *q, int64_t row, int panel)
{
    return row + panel * ML_Q_ROWS < q->p->n ? row + panel * ML_Q_ROWS : row;
}

static void unpack_chunk(const product *q, int64_t row, int64_t first, int64_t n_unit, char *units)
{
    gathered g;
    for (int64_t u = 0; u < n_unit; u++) {
        for (int panel = 0; panel < q->kernel->n_panel; panel++) {
            const uint16_t *half;
            int64_t ahead;
            ml_q_words word = find_words(q, panel_row(q, row, panel), first + u, &g, &half, &ahead);
            char *out = units + (size_t)(panel * n_unit + u) * q->format.unit_size;
            q->kernel->unpack(q->p->w_dtype, word, half, ahead, out);
        }
    }
}

static void run_dot(const product *q, const char *units, int64_t n_unit, tile *t)
{
    q->kernel->dot[q->format.super][t->size](&q->format, units, n_unit, &t->x, t->acc);
}

/* The rows of one tile from `row`, for all tokens: each chunk is unpacked once, and the sums wait in y. */
static void run_many(const product *q, int64_t row)
{
    _Alignas(64) char units[CHUNK_BYTES];
    for (int64_t first = 0; first < q->n_unit; first += q->chunk) {
        int64_t n_unit = q->n_unit - first < q->chunk ? q->n_unit - first : q->chunk;
        tile t;
        unpack_chunk(q, row, first, n_unit, units);
        for (int64_t token = 0; token < q->p->n_token; token += q->kernel->n_token[t.size]) {
            place_tile(q, token, first, &t);
            load_sums(q, token, row, first == 0, &t);
            run_dot(q, units, n_unit, &t);
            store_sums(q, token, row, &t);
        }
    }
}

/* The same for few tokens, whose sums stay here while short chunks pass by. */
static void run_few(const product *q, int64_t row)
{
    _Alignas(64) char units[SMALL_CHUNK_BYTES];
    tile t[FEW_TOKENS];
    int n_tile = 0;
    for (int64_t token = 0; token < q->p->n_token; token += q->kernel->n_token[t[n_tile++].size]) {
        place_tile(q, token, 0, &t[n_tile]);
        load_sums(q, token, row, true, &t[n_tile]);
    }
    for (int64_t first = 0; first < q->n_unit; first += q->chunk) {
        int64_t n_unit = q->n_unit - first < q->chunk ? q->n_unit - first : q->chunk;
        unpack_chunk(q, row, first, n_unit, units);
        for (int i = 0; i < n_tile; i++) {
            run_dot(q, units, n_unit, &t[i]);
            advance_tile(q, n_unit, &t[i]);
        }
    }
    int64_t token = 0;
    for (int i = 0; i < n_tile; i++) {
        store_sums(q, token, row, &t[i]);
        token += q->kernel->n_token[t[i].size];
    }
}

/* One or two tokens and one panel, straight from the stored words: of panels all units at once, of rows one after the
 * other.  A task's panels are one stream, and what lies DIRECT_AHEAD in it is asked for. */
static void run_direct(const product *q, ml_q_direct_fn direct, int64_t row)
{
    gathered g;
    tile t;
    place_tile(q, 0, 0, &t);
    memset(t.acc, 0, sizeof t.acc);
    int64_t step = q->p->w_layout == ML_LAYOUT_PANELS ? q->n_unit : 1;
    for (int64_t u = 0; u < q->n_unit; u += step) {
        const uint16_t *half;
        int64_t ahead;
        ml_q_words word = find_words(q, row, u, &g, &half, &ahead);
        direct(word, half, step, ML_Q_ROWS * q->block_bytes, q->p->w_layout == ML_LAYOUT_PANELS ? DIRECT_AHEAD : 0,
               &t.x, t.acc);
        advance_tile(q, step, &t);
    }
    int64_t n = q->p->n - row < ML_Q_ROWS ? q->p->n - row : ML_Q_ROWS;
    for (int64_t i = 0; i < q->p->n_token; i++) {
        memcpy(q->p->y + i * q->p->y_stride + row, t.acc + i * ML_Q_ROWS, (size_t)n * sizeof *t.acc);
    }
}

static void run_tasks(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    product task = *(const product *)arg, *q = &task;
    q->end = end;
    int64_t n_token = q->p->n_token;
    ml_q_direct_fn direct = n_token <= ML_Q_MAX_DIRECT ? q->kernel->direct[q->p->w_dtype][n_token - 1] : NULL;
    if (direct) {
        for (int64_t row = begin; row < end; row += ML_Q_ROWS) run_direct(q, direct, row);
        return;
    }
    for (int64_t row = begin; row < end; row += q->kernel->n_panel * ML_Q_ROWS) {
        (n_token <= FEW_TOKENS ? run_few : run_many)(q, row);
    }
}

static void clear(const ml_qmatmul *p)
{
    for (int64_t t = 0; t < p->n_token; t++) memset(p->y + t * p->y_stride, 0, (size_t)p->n * sizeof *p->y);
}

void ml_qmatmul_run(const ml_qmatmul *p)
{
    if ((double)p->n_token * (double)p->n * (double)p->k < MIN_PARALLEL) {
        ml_qmatmul_run_serial(p);
        return;
    }
    product q = prepare(p);
    int64_t width = q.kernel->n_panel * ML_Q_ROWS, row_bytes = q.n_unit * (int64_t)q.block_bytes;
    if (p->n_token <= FEW_TOKENS) {
        int64_t grain = TASK_BYTES / row_bytes / width * width;
        ml_parallel_for_guided(p->n, grain > width ? grain : width, run_tasks, &q);
        return;
    }
    ml_parallel_for(p->n, width, run_tasks, &q);
}

void ml_qmatmul_run_serial(const ml_qmatmul *p)
{
    if (p->n_token <= 0 || p->n <= 0) return;
    if (p->k <= 0) {
        clear(p);
        return;
    }
    product q = prepare(p);
    run_tasks(&q, 0, p->n, 0);
}

size_t ml_qpack_bytes(ml_dtype dtype, int64_t n, int64_t k)
{
    return (size_t)((n + ML_Q_ROWS - 1) / ML_Q_ROWS * ML_Q_ROWS) * ml_dtype_row_bytes(dtype, k);
}

typedef struct {
    const uint8_t *w;
    int64_t n, n_unit;
    size_t block_bytes;
    ml_q_format format;
    uint8_t *dst;
} pack_work;

static void pack_panels(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    static const uint8_t zero_block[ML_Q_MAX_WORD * 4 + 2];
    const pack_work *p = arg;
    size_t row_bytes = (size_t)p->n_unit * p->block_bytes;
    for (int64_t i = begin * p->n_unit; i < end * p->n_unit; i++) {
        const uint8_t *row[ML_Q_ROWS];
        uint8_t *at = p->dst + (size_t)i * ML_Q_ROWS * p->block_bytes;
        for (int r = 0; r < ML_Q_ROWS; r++) {
            int64_t source = i / p->n_unit * ML_Q_ROWS + r;
            row[r] = p->w + (size_t)source * row_bytes + (size_t)(i % p->n_unit) * p->block_bytes;
            if (source >= p->n) row[r] = zero_block;
        }
        uint32_t(*word)[ML_Q_ROWS] = (void *)at;
        choose_kernel()->gather(&p->format, row, (const char *)row[0], word,
                                (uint16_t *)(void *)word[p->format.n_word]);
    }
}

void ml_qpack(ml_dtype dtype, const void *w, int64_t n, int64_t k, void *dst)
{
    pack_work work = { w, n, k / ml_dtype_block_length(dtype), ml_dtype_block_bytes(dtype), format_of(dtype), dst };
    ml_parallel_for((n + ML_Q_ROWS - 1) / ML_Q_ROWS, 4, pack_panels, &work);
}
