/* What the parts of the optimizer on a device share: batches.cu cuts the work, update.cu computes, stream.cu moves what
 * lies in this machine's memory. */
#ifndef ML_OPTIM_CUDA_UPDATE_CUH
#define ML_OPTIM_CUDA_UPDATE_CUH

#include "ops/cuda/gemm.cuh"

extern "C" {
#include "base/alloc.h"
#include "optim/device_update.h"
}

/* One matrix, or one piece of a parameter that AdamW has: n elements, and where each of their arrays lies in device
 * memory (a slot, where it comes from elsewhere). */
struct ml_update_entry {
    float *value;          /* NULL when split */
    uint16_t *half, *rest; /* NULL where there are none */
    const float *grad;
    void *m, *v; /* m: Muon's momentum, or the first moment */
    int64_t n;
    float ratio; /* of the rate */
};

/* Entries [first, first + n) of one group; with Muon all [rows, cols]. */
struct ml_update_batch {
    int64_t first, n;
    ml_optim_group group;
    int64_t rows, cols;
    int64_t most;         /* elements of the largest entry */
    int64_t copy, n_copy; /* what comes and goes */
};

/* n_bytes at `here` in pinned memory are byte `at` of the batch's slot. */
struct ml_update_copy {
    char *here;
    size_t at, n_bytes;
};

enum { ML_UPDATE_SLOTS = 3 };
static const int64_t ML_UPDATE_PIECE = 1 << 16; /* elements */

/* Where the moments of a parameter lie. */
struct ml_update_moments {
    char *slot[2];
};

struct ml_device_update {
    ml_ctx *ctx;
    ml_device *device;
    const ml_optim_config *config;
    ml_optim_storage storage;
    const ml_param *param;
    int64_t n_param;
    ml_update_moments *moments; /* [n_param] */
    char *memory;               /* theirs: the device's, or pinned here */
    ml_update_batch *batch;
    int64_t n_batch;
    ml_update_copy *copy;
    int64_t n_copy;
    ml_update_entry *entry; /* [n_entry] in device memory: of all batches */
    int64_t n_entry;
    ml_update_entry *piece; /* [n_piece] of all gradients, for the norm */
    int64_t n_piece;
    size_t slot_bytes;
    char *slot; /* [ML_UPDATE_SLOTS * slot_bytes], or NULL when nothing is moved */
    cudaStream_t up, down;
    cudaEvent_t arrived[ML_UPDATE_SLOTS], computed[ML_UPDATE_SLOTS], gone[ML_UPDATE_SLOTS];
    int64_t n_asked;            /* batches of the coming step whose copies are queued */
    ml_update_control *control; /* and what follows it, in device memory */
    double *squares;            /* [ML_N_OPTIM_GROUP] */
    double *norm;               /* the sum of squares of all gradients */
    double *part;               /* [n_piece] */
};

static inline size_t ml_update_moment_size(const ml_device_update *u)
{
    return u->storage.bf16 ? sizeof(uint16_t) : sizeof(float);
}

static inline int ml_update_n_moment(const ml_optim_config *config, const ml_param *p)
{
    return ml_optim_is_muon(ml_optim_choose_group(config, p->kind)) ? 1 : 2;
}

/* Does a batch's work lie partly in this machine's memory? */
bool ml_update_moves(const ml_device_update *u);

/* Cut the work; entries and pieces go to the device. */
ml_status ml_update_make_batches(ml_device_update *u, ml_error *err);

/* Streams, events and slots; nothing when nothing moves. */
ml_status ml_update_make_stream(ml_device_update *u, ml_error *err);
void ml_update_free_stream(ml_device_update *u);
/* Queue copies until batch `until` is asked for. */
void ml_update_ask(ml_device_update *u, int64_t until);
/* Queue: the device's stream goes on when batch b has arrived; its results go back. */
void ml_update_await(ml_device_update *u, int64_t b);
void ml_update_return(ml_device_update *u, int64_t b);
/* The step's batches are all queued. */
void ml_update_end(ml_device_update *u);

#endif
