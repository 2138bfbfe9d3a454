/* A training stage whose rows are random tokens: speed without data. */
#ifndef ML_BENCH_RANDOM_STAGE_H
#define ML_BENCH_RANDOM_STAGE_H

#include "base/rng.h"
#include "train/loop.h"

enum { RANDOM_STAGE_MAX_SEQ = 8192 };

typedef struct {
    ml_rng rng;
    int64_t batch, seq, vocab; /* sequences of a micro-step, tokens of each (at most RANDOM_STAGE_MAX_SEQ), ids below */
} random_stage;

static ml_status random_stage_next(void *self, ml_batch *out, ml_error *err)
{
    random_stage *s = self;
    ml_batch_clear(out);
    int32_t id[RANDOM_STAGE_MAX_SEQ], target[RANDOM_STAGE_MAX_SEQ];
    for (int64_t b = 0; b < s->batch; b++) {
        for (int64_t i = 0; i < s->seq; i++) {
            id[i] = (int32_t)ml_rng_below(&s->rng, (uint64_t)s->vocab);
            target[i] = (int32_t)ml_rng_below(&s->rng, (uint64_t)s->vocab);
        }
        ML_TRY(ml_batch_add(out, id, target, s->seq, err));
    }
    return ML_OK;
}

static json_t *random_stage_position(void *self)
{
    (void)self;
    return json_object();
}

static ml_status random_stage_restore(void *self, const json_t *j, const char *where, ml_error *err)
{
    (void)self, (void)j, (void)where, (void)err;
    return ML_OK;
}

/* `self` outlives the stage. */
static inline ml_stage random_stage_make(random_stage *self)
{
    return (ml_stage){ .name = "bench",
                       .self = self,
                       .next = random_stage_next,
                       .loss = ml_loss_cross_entropy,
                       .position = random_stage_position,
                       .restore = random_stage_restore };
}

#endif
