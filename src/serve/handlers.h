/* Handlers of the routing table (routes.c), each in the file named beside it. */
#ifndef ML_SERVE_HANDLERS_H
#define ML_SERVE_HANDLERS_H

#include "serve/web.h"

ml_status ml_openai_models(ml_web *h, ml_error *err);      /* text.c */
ml_status ml_openai_model(ml_web *h, ml_error *err);       /* text.c */
ml_status ml_openai_chat(ml_web *h, ml_error *err);        /* chat.c */
ml_status ml_openai_completions(ml_web *h, ml_error *err); /* completions.c */
ml_status ml_openai_embeddings(ml_web *h, ml_error *err);  /* embeddings.c */
ml_status ml_tokenize(ml_web *h, ml_error *err);           /* text.c */
ml_status ml_detokenize(ml_web *h, ml_error *err);         /* text.c */
ml_status ml_generate_stream(ml_web *h, ml_error *err);    /* generate_stream.c */
ml_status ml_health(ml_web *h, ml_error *err);             /* health.c */
ml_status ml_metrics_page(ml_web *h, ml_error *err);       /* health.c */
ml_status ml_openapi(ml_web *h, ml_error *err);            /* health.c */
ml_status ml_api_runs(ml_web *h, ml_error *err);           /* runs.c */
ml_status ml_api_run_note(ml_web *h, ml_error *err);       /* runs.c */
ml_status ml_api_run_metrics(ml_web *h, ml_error *err);    /* run_lines.c */
ml_status ml_api_run_stream(ml_web *h, ml_error *err);     /* run_lines.c */
ml_status ml_api_run_samples(ml_web *h, ml_error *err);    /* run_lines.c */
ml_status ml_api_run_rollouts(ml_web *h, ml_error *err);   /* rollouts.c */
ml_status ml_api_run_options(ml_web *h, ml_error *err);    /* runs.c */
ml_status ml_api_bench(ml_web *h, ml_error *err);          /* bench.c */
ml_status ml_api_conversations(ml_web *h, ml_error *err);  /* conversations.c */
ml_status ml_api_conversation_make(ml_web *h, ml_error *err);
ml_status ml_api_conversation_get(ml_web *h, ml_error *err);
ml_status ml_api_conversation_change(ml_web *h, ml_error *err);
ml_status ml_api_conversation_delete(ml_web *h, ml_error *err);
ml_status ml_api_message_add(ml_web *h, ml_error *err);

#endif
