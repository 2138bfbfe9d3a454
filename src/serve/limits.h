/* What a request may be at most.  docs/limits.md lists them, and tests/server tries each at limit - 1, limit and
 * limit + 1. */
#ifndef ML_SERVE_LIMITS_H
#define ML_SERVE_LIMITS_H

enum {
    ML_LIMIT_CONNECTION = 256,        /* open at once */
    ML_LIMIT_SPARE = 16,              /* more, for /health and /metrics alone */
    ML_LIMIT_SPARE_SECONDS = 2,       /* without a byte on one of those */
    ML_LIMIT_BODY = 4 << 20,          /* bytes of a request's body */
    ML_LIMIT_READ = 16 << 20,         /* bytes of a body that is too long which are read before saying so */
    ML_LIMIT_BODIES = 256 << 20,      /* bytes of all bodies being received or answered */
    ML_LIMIT_DEPTH = 64,              /* of nested JSON */
    ML_LIMIT_VALUE = 1000000,         /* values in a body */
    ML_LIMIT_IDLE_SECONDS = 30,       /* without a byte from the client while it sends or should read */
    ML_LIMIT_MESSAGE = 1024,          /* messages of a conversation */
    ML_LIMIT_TOOL = 128,              /* tools of a request */
    ML_LIMIT_CHOICE = 16,             /* n */
    ML_LIMIT_PROMPT = 64,             /* prompts of a completion, inputs of an embedding */
    ML_LIMIT_STOP = 16,               /* stop strings */
    ML_LIMIT_STOP_BYTES = 256,        /* of one of them */
    ML_LIMIT_TOP_LOGPROB = 20,        /* top_logprobs, logprobs */
    ML_LIMIT_BIAS = 1024,             /* entries of logit_bias */
    ML_LIMIT_TRACE = 16,              /* traces kept */
    ML_LIMIT_TRACE_TOKEN = 4096,      /* tokens of a traced request, prompt and answer */
    ML_LIMIT_LOADED = 8,              /* models in memory */
    ML_LIMIT_ADAPTER = 64,            /* adapters in memory */
    ML_LIMIT_BENCH_TOKEN = 1024,      /* prompt_tokens, gen_tokens of a benchmark */
    ML_LIMIT_BENCH_REPEAT = 20,       /* its repeats */
    ML_LIMIT_TITLE = 200,             /* bytes of a conversation's title */
    ML_LIMIT_NOTE = 1000,             /* bytes of a run's note */
    ML_LIMIT_SCHEMA_BYTES = 64 << 10, /* of a JSON schema */
    ML_LIMIT_RUN_LINE = 100000,       /* lines of metrics in one answer */
    ML_LIMIT_ROLLOUT = 1000,          /* rollouts in one answer */
};

#endif
