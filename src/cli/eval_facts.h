/* moonlight eval --task facts: conversations in which the model is told something and asked for it later. */
#ifndef ML_CLI_EVAL_FACTS_H
#define ML_CLI_EVAL_FACTS_H

#include "base/options.h"
#include "cli/eval_scores.h"
#include "cli/load.h"

/* `text` is the data: JSON lines with "messages" and "facts" (data/synth_chat.h); `path` names it in errors.  The
 * model gives every answer of a conversation itself and sees its own earlier ones.  Prints the counts and adds them to
 * *scores. */
ml_status ml_cli_eval_facts(const ml_options *o, ml_loaded *m, const char *path, const char *text, size_t n_bytes,
                            ml_eval_scores *scores, ml_error *err);

#endif
