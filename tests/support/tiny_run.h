/* Training runs small enough for a unit test: models of width 32, and a stage that invents its sequences. */
#ifndef ML_TESTS_TINY_RUN_H
#define ML_TESTS_TINY_RUN_H

#include "base/rng.h"
#include "train/loop_internal.h"

enum { TEST_VOCAB = 64 };

typedef enum {
    TEST_DENSE,
    TEST_GQA_MOE,     /* softmax router, 4 experts, 2 chosen, one shared */
    TEST_GQA_SIGMOID, /* sigmoid router with a correction bias that moves */
    TEST_MLA_MOE,     /* one dense layer, then sigmoid experts; latent attention */
    TEST_MLA_LORA,    /* the same with low-rank queries */
    TEST_N_MODEL
} test_model;

/* Two layers of width 32; all auxiliary losses off. */
ml_config test_model_config(test_model which);
/* Enlarge random fp32 weights until logits are of order 1 and attention is not flat; draws biases and norms. */
void test_model_enlarge(ml_model *m, ml_rng *rng);
/* A model of fp32 weights -> the same with its matrices rounded to bf16; the given one is freed. */
ml_model *test_model_round_to_bf16(ml_model *from);
/* Another model whose weights are those of this one as fp32. */
ml_model *test_model_widen(const ml_model *from);

/* Sequence number i is a function of (seed, i) alone: ragged, learnable, some of its targets masked. */
typedef struct {
    uint64_t seed;
    int64_t batch, seq;
    int64_t index;            /* of the next sequence */
    int64_t n_eval;           /* batches */
    bool fixed;               /* every sequence has `seq` tokens */
    bool single;              /* as many sequences of one token as `batch` of `seq` have */
    int64_t n_call;           /* of next() */
    int64_t bad_from, bad_to; /* calls (from 1) in [bad_from, bad_to) spoil a weight of `model` */
    ml_model *model;
    float saved; /* what the spoilt weight was */
    bool spoilt;
} test_stage;

ml_stage test_stage_make(test_stage *self);

/* Everything of one run. */
typedef struct {
    char folder[ML_PATH_MAX];
    ml_model *model;
    test_stage self;
    ml_stage stage;
    ml_train_config config;
    ml_loop *loop;
    char said[8192]; /* all lines that the loop said */
} test_run;

/* batch 4, sequences of up to 24 tokens, AdamW, cosine over 20 steps; change what the test needs before starting. */
ml_train_config test_train_config(void);
/* A fresh folder, a model initialised with seed 7, and a loop. */
void test_run_start(test_run *r, const ml_config *model, const ml_train_config *config);
/* As a new process would: the same folder, another model in memory whose weights are NaN, --resume. */
void test_run_resume(test_run *r, const char *folder, const ml_config *model, const ml_train_config *config);
/* The folder stays when `keep`. */
void test_run_end(test_run *r, bool keep);
/* One step, which must succeed. */
ml_train_step test_run_step(test_run *r);

/* Weights (biases of the router too), optimizer state, counters, guard and data position are the same bits. */
void test_assert_same_run(const test_run *a, const test_run *b);

#endif
