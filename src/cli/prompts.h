/* --prompts FILE: a prompt on each line, or the "prompt" of each line of a .jsonl file. */
#ifndef ML_CLI_PROMPTS_H
#define ML_CLI_PROMPTS_H

#include "base/status.h"

#include <stddef.h>

/* adapter: the "adapter" of the line, or NULL. */
typedef ml_status (*ml_cli_prompt_fn)(void *arg, const char *text, size_t n_bytes, const char *adapter, ml_error *err);

/* Hand over each prompt; blank lines are none.  ML_EINVAL when there is none at all, ML_EFORMAT naming file and line.
 */
ml_status ml_cli_read_prompts(const char *path, ml_cli_prompt_fn add, void *arg, ml_error *err);

#endif
