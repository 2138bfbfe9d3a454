/* libmoonlight: the public API.  Nothing else is installed.
 *
 *   ml_tokenizer   text <-> token ids                       immutable, any number of threads
 *   ml_model       weights and architecture, read from disk  any number of sessions; on the processor or a GPU
 *   ml_session     one growing sequence of tokens            one thread at a time
 *   ml_sampler     chooses the next token                    one thread at a time
 *   ml_generate    prompt -> text, token by token            (examples/generate.c)
 *   ml_trainer     recipe -> data, tokenizer, trained model  (examples/train.c); one thread at a time
 *
 * Every fallible call returns an ml_status and, when it is not ML_OK, fills an ml_error with one
 * sentence a person can act on; results are then NULL or untouched.  Nothing here prints, exits or aborts.
 * *_free(NULL) is legal.  What a call returns in new memory is freed by the function named beside it. */
#ifndef MOONLIGHT_H
#define MOONLIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ML_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    ML_OK = 0,
    ML_EINVAL,   /* an argument, option or recipe value that cannot be honoured */
    ML_EFORMAT,  /* bytes of a file are not what its format demands */
    ML_EIO,      /* the operating system refused: missing file, full disk, ... */
    ML_ENOMEM,   /* out of memory, or an arena smaller than the work */
    ML_ECANCEL,  /* stopped by the user, as the message says; what was done so far is consistent */
    ML_ENUMERIC, /* a loss or gradient that is not finite */
} ml_status;

enum { ML_ERROR_MAX = 1024 };

/* Filled by the call that fails; `message` is a complete sentence: what (file, offset or key), what
 * was expected, what was found, and the remedy. */
typedef struct {
    ml_status code;
    char message[ML_ERROR_MAX];
} ml_error;

/* "0.1.0" */
ML_API const char *ml_version(void);
/* Threads to compute with: n >= 1 sets it; n = 0 returns to the default (affinity mask and cgroup quota). */
ML_API void ml_thread_set_count(int n);
ML_API void ml_free(void *p);

/* ---- tokenizer ---- */

typedef struct ml_tokenizer ml_tokenizer;

/* Token ids, growing; start zeroed. */
typedef struct {
    int32_t *id;
    size_t n, capacity;
} ml_ids;

ML_API void ml_ids_free(ml_ids *ids);

/* Open a folder or file:
 *   tokenizer.json (Hugging Face); tiktoken.model; encoder.json + vocab.bpe or vocab.json + merges.txt (GPT-2);
 *   llama2.c's tokenizer.bin; a GGUF file;
 *   a model folder holding one of them, or a run folder (its best, else latest step).
 * tokenizer_config.json beside the file supplies special tokens, their roles and the chat template.
 * ML_EFORMAT for damaged files; ML_EINVAL naming the key for what cannot be honoured (another normalizer than NFC,
 * another model type than BPE, byte-level or SentencePiece's), so that ids are equal or there are none. */
ML_API ml_status ml_tokenizer_open(const char *path, ml_tokenizer **out, ml_error *err);
ML_API void ml_tokenizer_free(ml_tokenizer *t);

/* Append the ids of n_bytes of text to *out.  With parse_special, the text of an added token becomes its id
 * (leftmost, then longest).  Fails with ML_EINVAL only when a byte has no token and there is no unknown token,
 * or ML_ENOMEM; *out then keeps what it held. */
ML_API ml_status ml_tokenizer_encode(const ml_tokenizer *t, const char *text, size_t n_bytes, bool parse_special,
                                     ml_ids *out, ml_error *err);
/* The bytes of n ids in new memory (ml_free) with a 0 behind them, not counted in *n_bytes.  skip_special leaves
 * special tokens out.  ML_EINVAL for an id that has no token. */
ML_API ml_status ml_tokenizer_decode(const ml_tokenizer *t, const int32_t *id, size_t n, bool skip_special, char **text,
                                     size_t *n_bytes, ml_error *err);
/* Highest id + 1. */
ML_API int32_t ml_tokenizer_vocab_size(const ml_tokenizer *t);
/* Append the ids that the tokenizer's file puts before (behind) each text: BOS (EOS), as a rule, or nothing.  Encoding
 * leaves that to the caller. */
ML_API ml_status ml_tokenizer_append_prefix(const ml_tokenizer *t, ml_ids *out, ml_error *err);
ML_API ml_status ml_tokenizer_append_suffix(const ml_tokenizer *t, ml_ids *out, ml_error *err);
/* Ids of the beginning and the end of a text, -1 where the tokenizer has none. */
ML_API int32_t ml_tokenizer_bos(const ml_tokenizer *t);
ML_API int32_t ml_tokenizer_eos(const ml_tokenizer *t);

/* ---- model ---- */

typedef struct ml_model ml_model;

typedef struct {
    const char *class_name;   /* "DeepseekV3ForCausalLM", ... */
    int64_t n_params;         /* stored elements */
    int64_t n_params_active;  /* those one token meets */
    int64_t n_layer, d_model; /* layers, and the width of what flows between them */
    int64_t n_vocab;          /* logits; a tokenizer may have fewer ids */
    int64_t n_position;       /* tokens in a sequence at most */
    int32_t bos_id, eos_id;   /* -1: none */
    int32_t n_expert, top_k;  /* routed experts of a layer, and how many a token meets; 0: a dense model */
} ml_model_info;

/* Open a model for inference: a model folder (config.json and *.safetensors, as Hugging Face has them), a GGUF file
 * (any of a split set), a safetensors file beside its config.json, or a run folder (its best checkpoint).  Matrices
 * stay in the mapped file, in the type they have there. */
ML_API ml_status ml_model_open(const char *path, ml_model **out, ml_error *err);
/* The same, to compute on `device`: "cpu"; "cuda" or "cuda:N", an NVIDIA GPU; or "auto": a GPU if there is one and the
 * model fits there, else the processor.  On a GPU the weights are copied to its memory, in the types they have; what
 * does not fit of experts stays in this machine's memory, and a session's keys and values lie there too.  Logits are
 * always here.  Sessions of a model on a GPU are used by one thread at a time, all of them.
 * ML_EINVAL for another word, and for "cuda" where there is no GPU, its driver is too old, or the library was built
 * without CUDA; ML_ENOMEM when the model does not fit, before anything is allocated.  A GPU that is lost later is
 * ML_EIO of the call that finds out, and of those that follow. */
ML_API ml_status ml_model_open_on(const char *path, const char *device, ml_model **out, ml_error *err);
/* Where it computes, and why where that was chosen: "cpu", "cuda:0 (NVIDIA H200, 139.2 of 139.8 GiB free)",
 * "cpu (cuda:0: there is no NVIDIA GPU here: ...)".  Lives as long as the model. */
ML_API const char *ml_model_get_device(const ml_model *m);
/* Rearrange quantised weights in memory, where products are faster: takes as many bytes as they have in the file, whose
 * mapping is given back meanwhile.  Answers stay the same, bit for bit.  Before the first session is made; of a model
 * on a GPU nothing changes.  ML_ENOMEM when there is no room; the model is then as it was. */
ML_API ml_status ml_model_repack(ml_model *m, ml_error *err);
ML_API void ml_model_free(ml_model *m);
ML_API ml_model_info ml_model_get_info(const ml_model *m);

/* ---- session ---- */

typedef struct ml_session ml_session;

/* Room for `capacity` tokens (at most the model's positions).  Keeps keys and values of seen tokens when use_cache;
 * otherwise computes everything again at each call, with the same result.  The model must outlive the session. */
ML_API ml_status ml_session_make(ml_model *model, int64_t capacity, bool use_cache, ml_session **out, ml_error *err);
/* The same with keys and values stored as "f16" (what ml_session_make takes), "bf16", "f32" or "q8_0": half, half, all
 * and a quarter of fp32's memory.  ML_EINVAL for another type, or one that the model's heads do not divide into. */
ML_API ml_status ml_session_make_typed(ml_model *model, int64_t capacity, bool use_cache, const char *kv_type,
                                       ml_session **out, ml_error *err);
ML_API void ml_session_free(ml_session *s);

/* Run the model over n more tokens of a prompt.  ML_EINVAL when they do not fit or an id is outside the vocabulary. */
ML_API ml_status ml_session_append(ml_session *s, const int32_t *id, int64_t n, ml_error *err);
/* The same for a token that was generated, one at a time: another way through attention, quick for one token where the
 * other is quick for many.  Which of the two a token took decides the last bits of what follows. */
ML_API ml_status ml_session_append_generated(ml_session *s, int32_t id, ml_error *err);
/* Logits [n_vocab] after the last token; valid until the next append.  NULL before the first. */
ML_API const float *ml_session_logits(const ml_session *s);
/* Forget all but the first n tokens; logits are gone until the next append. */
ML_API void ml_session_truncate(ml_session *s, int64_t n);
/* Tokens appended and not forgotten. */
ML_API int64_t ml_session_count(const ml_session *s);

/* ---- generation ---- */

typedef struct {
    double temperature;        /* 0: greedy */
    int64_t top_k;             /* 0: off; else only the k likeliest */
    double top_p;              /* 1: off; else the smallest set of likeliest tokens whose probability reaches p */
    double min_p;              /* 0: off; else only tokens at least min_p times as likely as the likeliest */
    double repetition_penalty; /* 1: off; else logits of recent tokens are divided by it when positive, multiplied when
                                  negative: lowered in both cases */
    int64_t repetition_window; /* how many recent tokens count; 0: all */
    uint64_t seed;
} ml_sampling;

/* temperature 0, everything else off, seed 0 */
ML_API ml_sampling ml_sampling_default(void);

typedef struct ml_sampler ml_sampler;

/* `n_vocab` logits come in; ids from `n_valid` on (rows that pad the vocabulary: the tokenizer's size) are never
 * chosen.  ML_EINVAL naming the setting that is out of range. */
ML_API ml_status ml_sampler_make(const ml_sampling *sampling, int64_t n_vocab, int64_t n_valid, ml_sampler **out,
                                 ml_error *err);
ML_API void ml_sampler_free(ml_sampler *s);

typedef enum {
    ML_FINISH_STOP,   /* an end-of-sequence id came (it is the last id of the result) */
    ML_FINISH_LENGTH, /* max_tokens reached, or the context is full */
    ML_FINISH_CANCEL, /* the callback said so */
} ml_finish;

typedef struct {
    int64_t max_tokens;
    const int32_t *stop_id; /* [n_stop] */
    int64_t n_stop;
    /* Called for every new token, the end-of-sequence id included; false stops.  `logprob` is its log-probability in
     * nats, before temperature and cuts.  NULL: nobody listens. */
    bool (*on_token)(void *arg, int32_t id, double logprob);
    void *arg;
} ml_generate_config;

typedef struct {
    int32_t *id;     /* [n] generated */
    double *logprob; /* [n] */
    int64_t n;
    ml_finish finish;
    double prefill_seconds, decode_seconds;
} ml_generation;

/* Append `prompt` [n_prompt] to the session and generate.  The prompt may be empty only if the session is not.
 * A prompt that fills the context gives 0 tokens and ML_FINISH_LENGTH; one that does not fit is ML_EINVAL with both
 * numbers.  The session then holds the prompt and all new tokens but the last.  Free the result with
 * ml_generation_free. */
ML_API ml_status ml_generate(ml_session *session, ml_sampler *sampler, const int32_t *prompt, int64_t n_prompt,
                             const ml_generate_config *config, ml_generation *out, ml_error *err);
ML_API void ml_generation_free(ml_generation *g);

/* ---- trainer ----
 *
 * A recipe is an INI file: sections model, data, train, optim, ...; docs/cli.md has every key, and `moonlight pretrain`
 * is a program around these calls.  What it leaves is a run folder: log.jsonl, TensorBoard events, and checkpoints,
 * each a model folder that ml_model_open takes. */

typedef struct ml_trainer ml_trainer;

/* One optimizer step that is done. */
typedef struct {
    int64_t step, n_step;     /* how many are done now, of how many */
    int64_t tokens;           /* trained on since the run began */
    double loss;              /* nats per target token, without auxiliary losses */
    double grad_norm;         /* before clipping */
    double lr;                /* learning rate */
    double tokens_per_second; /* of this step */
    double seconds;           /* it took */
    bool skipped;             /* its gradient was out of line: the weights are as before */
} ml_trainer_step;

/* Work that takes a while, from its beginning to its end, one after the other: "text", "tokenizer" and "data" where
 * they are missing, then "train". */
typedef enum { ML_PROGRESS_BEGIN, ML_PROGRESS_UPDATE, ML_PROGRESS_END } ml_progress_phase;

typedef struct {
    ml_progress_phase phase;
    const char *task, *unit; /* "train", "steps" */
    const char *note;        /* "loss 2.3145  5423 tokens/s", or "" */
    double done, total;      /* in units; total 0: unknown.  A run that is resumed does not begin at 0 */
} ml_trainer_progress;

typedef struct {
    const char *stage;  /* what kind of training, as the verb of the program: NULL or "pretrain" */
    const char *recipe; /* path of an INI file, or the name of one that is built in: "quickstart", "nano-moe", ... */
    const char *const *set; /* [n_set] "section.name=value", each over what the recipe says, e.g. "train.steps=200" */
    size_t n_set;
    const char *run_folder; /* made if missing; another process cannot use it at the same time */
    bool resume;            /* continue the run in it from its latest checkpoint, bit for bit; else it must hold none */
    const char *device;     /* "cpu", "cuda", "cuda:N", or "auto": a GPU where there is one; NULL: "cpu" */
    /* Who is told what, by the thread that called; each may be NULL.  Texts live until the function returns. */
    void *arg;
    void (*on_step)(void *arg, const ml_trainer_step *step);
    void (*on_evaluation)(void *arg, int64_t step, double loss); /* nats per validation token */
    void (*on_progress)(void *arg, const ml_trainer_progress *progress);
    void (*on_message)(void *arg, bool is_warning, const char *text); /* one line, for a person */
} ml_trainer_config;

/* Read the recipe and check all that can be checked without building anything; writes nothing.  Messages: how the
 * options of a resumed run differ from those it had, what was fitted to a small number of steps, the memory plan.
 * ML_EINVAL naming file and line, or the key, for what cannot be honoured: a value, a folder that holds another run,
 * data that were built with other options, a sweep (which only the program trains).  `config` and the texts it points
 * to may go away afterwards. */
ML_API ml_status ml_trainer_open(const ml_trainer_config *config, ml_trainer **out, ml_error *err);
/* Unlocks the run folder. */
ML_API void ml_trainer_free(ml_trainer *t);

/* What the run will compute and hold, known once it is open; bytes are upper bounds with the present number of
 * threads.  Of a tokenizer that is not made yet, the vocabulary is taken to be data.vocab_size, or else the preset's.
 */
typedef struct {
    const char *class_name;             /* as in ml_model_info */
    int64_t n_params, n_params_active;  /* likewise */
    int64_t n_step;                     /* optimizer steps */
    int64_t tokens_per_step;            /* at most */
    int64_t weights_bytes;              /* fp32 */
    int64_t gradients_bytes;            /* fp32 */
    int64_t optimizer_bytes;            /* moments and scratch */
    int64_t activations_bytes;          /* kept for the backward, and the largest scratch */
    int64_t activation_gradients_bytes; /* of one layer and the ends */
    int64_t total_bytes;                /* of the five */
    int64_t available_bytes;            /* of this machine, or its GPU, now; a run that needs more is refused */
    const char *device;                 /* "cpu" or "cuda:N": what was chosen, and where the bytes above are */
    int64_t host_bytes;                 /* beside a GPU's memory: of this machine's */
} ml_trainer_plan;

ML_API ml_trainer_plan ml_trainer_get_plan(const ml_trainer *t);

/* Build data and tokenizer where they are missing (data.dir; what an interruption left is used), then train to the
 * end.  Returns
 *   ML_OK        at the end; a further call does nothing
 *   ML_ECANCEL   after ml_trainer_stop: a checkpoint is saved, and a further call goes on, as a new process does that
 *                resumes the run; stopped while data are built, a further call goes on with that
 *   ML_ENOMEM    when the plan needs more than is available, saying what to change
 *   ML_ENUMERIC  when training diverges again after going back to a checkpoint
 *   others       a full disk, a damaged file, ...
 * What has failed while training is gone on with by a new trainer that resumes. */
ML_API ml_status ml_trainer_run(ml_trainer *t, ml_error *err);
/* Ask ml_trainer_run to stop: it finishes the step, saves and returns ML_ECANCEL.  Any thread may call it, a callback
 * and a signal handler too.  Before ml_trainer_run it stops the next one, after its first step at the latest. */
ML_API void ml_trainer_stop(ml_trainer *t);

typedef struct {
    ml_status finish;     /* what the last ml_trainer_run returned; ML_OK before the first */
    int64_t step, n_step; /* done, of how many */
    int64_t tokens;       /* trained on since the run began */
    double best_loss;     /* lowest validation loss, nats per token; NaN: none yet */
    const char *best;     /* model folder: the checkpoint with that loss, or without any the latest; NULL: none yet */
    const char *latest; /* model folder: the newest checkpoint; NULL: none yet.  Both live until the next call with t */
} ml_trainer_result;

ML_API ml_trainer_result ml_trainer_get_result(ml_trainer *t);

#ifdef __cplusplus
}
#endif
#endif
