/* What qmatmul.c needs from one instruction set.
 *
 * Every block type is first unpacked, 16 rows and one block at a time, to one of two forms that the dot products read:
 * code bytes in 0..255 with the integer scale of each sub-block.  Words hold four consecutive elements of one row, and
 * the same word of 16 rows lies side by side, so that a lane of a vector belongs to one row. */
#ifndef ML_OPS_CPU_QMATMUL_KERNEL_H
#define ML_OPS_CPU_QMATMUL_KERNEL_H

#include "ops/cpu/qmatmul.h"

#include <stdbool.h>

/* 256 elements of 16 rows.  16-element sub-blocks have 16 scales, 32-element ones 8. */
typedef struct {
    _Alignas(64) uint32_t code[64][ML_Q_ROWS];
    int32_t scale[16][ML_Q_ROWS];
    /* What the sums of q count, two int16 each: for sub-blocks of 16 elements those of 2 g and 2 g + 1; for sub-blocks
     * of 32 four words only, of the sub-blocks whose sums a word of ml_qx.pair has. */
    uint32_t offset[8][ML_Q_ROWS];
    float d[ML_Q_ROWS];
    float m[ML_Q_ROWS]; /* of types with minima: offset belongs to m, not to d */
} ml_q_super;

/* 32 elements of 16 rows. */
typedef struct {
    _Alignas(64) uint32_t code[8][ML_Q_ROWS];
    float d[ML_Q_ROWS];
    float m[ML_Q_ROWS]; /* of types with minima */
} ml_q_block;

/* Tokens of a tile, panels that a tile spans, words of a block, tokens of the kernels that do not unpack first. */
enum { ML_Q_MAX_TOKEN = 6, ML_Q_MAX_PANEL = 2, ML_Q_MAX_WORD = 52, ML_Q_MAX_DIRECT = 2 };

/* What is the same for all blocks of a type. */
typedef struct {
    bool super;    /* ml_q_super, else ml_q_block */
    bool has_min;  /* m is used */
    int sub_words; /* words per sub-block: 4 or 8 */
    int code_bits; /* codes are below 2^code_bits */
    int zero;      /* ml_q_block without m: the code that stands for 0; ml_q_super has it in offset */
    int n_word;    /* stored words per block and row */
    int word_at;   /* byte of a block where they begin */
    /* Where each of them stands in a panel: in the order in which kernels read them, so that the hardware's
     * prefetchers see one ascending stream.  q6_k: scales, then, for four elements after four, the word of the first
     * two quarters' low bits, of the second two, and of the high bits; the others: as stored. */
    const uint8_t *place;
    int half_at;      /* byte of the half that lies outside of the words; -1 if none */
    int fifth_at;     /* word of a block with the fifth bits of its codes; -1 if none */
    size_t unit_size; /* of ml_q_super or ml_q_block */
} ml_q_format;

/* Tokens of a tile, at the first unit of the product's chunk. */
typedef struct {
    const int8_t *q[ML_Q_MAX_TOKEN];
    const int16_t *sum[ML_Q_MAX_TOKEN];
    const int32_t *pair[ML_Q_MAX_TOKEN]; /* of super-blocks */
    const float *d[ML_Q_MAX_TOKEN];
} ml_q_tile;

/* acc[t * n_panel * 16 + panel * 16 + row] goes on over n_unit units; w holds n_unit units for each panel. */
typedef void (*ml_q_dot_fn)(const ml_q_format *f, const void *w, int64_t n_unit, const ml_q_tile *x, float *acc);

/* The stored words of a block of 16 rows. */
typedef const uint32_t (*ml_q_words)[ML_Q_ROWS];
/* acc[t * 16 + row] goes on over n_unit units of one panel, from the words and halves of the first; those of the next
 * lie unit_bytes further on.  Memory is asked for `ahead` bytes before it is read. */
typedef void (*ml_q_direct_fn)(ml_q_words word, const uint16_t *half, int64_t n_unit, size_t unit_bytes, int64_t ahead,
                               const ml_q_tile *x, float *acc);

typedef struct {
    int n_panel;    /* panels that a tile spans, <= ML_Q_MAX_PANEL */
    int n_token[4]; /* tile sizes, descending, ending with 1 */
    /* By format (0: blocks, 1: super-blocks) and index in n_token. */
    ml_q_dot_fn dot[2][4];
    /* Without unpacking first, for one and two tokens; NULL where there is none. */
    ml_q_direct_fn direct[ML_N_DTYPE][ML_Q_MAX_DIRECT];
    /* n_unit blocks of each of sixteen rows, from byte `at` of the rows on -> as a panel has them, at dst; asks for 16
     * bytes of the memory at `ahead` for every 16 that it reads. */
    void (*gather)(const ml_q_format *f, const uint8_t *const *row, size_t at, int64_t n_unit, const char *ahead,
                   void *dst);
    /* Words and halves -> ml_q_super or ml_q_block; asks for the memory `ahead` bytes after the words it reads. */
    void (*unpack)(ml_dtype dtype, ml_q_words word, const uint16_t *half, int64_t ahead, void *unit);
    /* One row of x: k elements in units. */
    void (*quantize)(int unit, int64_t k, const float *x, int8_t *q, int16_t *sum, float *d);
} ml_q_kernel;

/* For the instruction set in use. */
const ml_q_kernel *ml_q_kernel_get(void);
ml_q_format ml_q_format_of(ml_dtype dtype);

extern const ml_q_kernel ml_q_kernel_scalar, ml_q_kernel_avx2, ml_q_kernel_avxvnni, ml_q_kernel_avx512vnni,
    ml_q_kernel_neondot;

#endif
