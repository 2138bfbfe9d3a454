/* The data of a recipe: opened where it exists, built first where it does not.
 *
 *   <data.dir>/text.txt      generated, unless data.text names files
 *   <data.dir>/tokenizer/    trained on it, or a copy of data.tokenizer
 *   <data.dir>/tokens/       meta.json and the shards (data/dataset.h)
 *
 * A folder that `moonlight data build` made (meta.json in data.dir itself) is taken as it is; data.tokenizer then names
 * the tokenizer it was made with. */
#ifndef ML_CLI_PREPARE_H
#define ML_CLI_PREPARE_H

#include "base/options.h"
#include "data/dataset.h"
#include "token/tokenizer.h"

/* From the section `data`.  Says what it builds, with progress; what an interruption left is used or continued. */
ml_status ml_cli_prepare_data(const ml_options *o, ml_dataset **data, ml_tokenizer **tokenizer, ml_error *err);

#endif
