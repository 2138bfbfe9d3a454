/* Rows of several sources, each with its share of the tokens, in one folder.
 *
 *   <out>/source_000/ ...   the rows of each source, as long as the mixture is being made
 *   <out>/meta.json         also "mixture": what was asked for and what each source gave
 *
 * How many tokens a source may give follows from the total and its share (source_list.h), in each split.  Its rows are
 * taken in an order that the seed decides, until the next would be too much: it falls short by less than a row, and
 * never goes over.  Rows of all sources are mixed in proportion all along.
 *
 * For validation there are as many tokens as val_fraction makes of those for training, or as the sources have. */
#ifndef ML_DATA_MIX_ROWS_H
#define ML_DATA_MIX_ROWS_H

#include "data/build_rows.h"

/* ml_build_rows of a config with sources.  ML_EINVAL when one has too little for its share of config->tokens. */
ml_status ml_mix_rows(const ml_build_rows_config *config, const ml_tokenizer *tokenizer, ml_build_rows_result *result,
                      ml_error *err);

#endif
