/* Memory that is fetched a line at a time between products: what is asked for in bursts is dropped by the hardware
 * once its miss buffers are full. */
#ifndef ML_OPS_CPU_ATTENTION_KERNEL_FETCH_H
#define ML_OPS_CPU_ATTENTION_KERNEL_FETCH_H

#include "ops/cpu/attention_kernel_rows.h"
#include "ops/cpu/vmath.h"

enum { FETCH_LINE = 64 }; /* bytes of memory that come together */

typedef struct {
    const char *at, *end; /* of the row in turn */
    const ml_rows_ahead *ahead, *last;
    int64_t row;
    int lines; /* at a time */
} fetcher;

/* The memory of ahead[0] and ahead[1] in n_turn turns. */
VF_INLINE fetcher begin_fetching(const ml_rows_ahead *ahead, int64_t n_turn)
{
    int64_t n_line = 0;
    for (int i = 0; i < 2; i++) n_line += ahead[i].n_row * ((ahead[i].n_bytes + FETCH_LINE - 1) / FETCH_LINE);
    return (fetcher){ .ahead = ahead, .last = ahead + 1, .lines = (int)((n_line + n_turn - 1) / n_turn) };
}

VF_INLINE void fetch_lines(fetcher *f)
{
    for (int i = 0; i < f->lines; i++) {
        while (f->at >= f->end) {
            if (f->row < f->ahead->n_row) {
                f->at = f->ahead->row[f->row++];
                f->end = f->at + f->ahead->n_bytes;
            } else {
                if (f->ahead == f->last) return;
                f->ahead++;
                f->row = 0;
            }
        }
        __builtin_prefetch(f->at);
        f->at += FETCH_LINE;
    }
}

#endif
