/* Documents of several sources, each with its share of the tokens, in one data folder (dataset.h).
 *
 *   <out>/source_000/ ...   the tokens of each source (build.h), as long as the mixture is being made
 *   <out>/meta.json         also "mixture": what was asked for and what each source gave
 *
 * A source gives exactly its quota (source_list.h) in each split, the last document it gives being cut to that.  The
 * seed decides which documents are taken and in which order; all sources are mixed.  For validation there are as many
 * tokens as val_fraction makes of those for training, or as the sources have.
 *
 * The sources are built as any folder is, interruptions included; the same call goes on.  Where the total is given, a
 * source is read only as far as its quota needs. */
#ifndef ML_DATA_MIX_H
#define ML_DATA_MIX_H

#include "data/build.h"
#include "data/source_list.h"

typedef struct {
    const ml_source_list *sources;
    int64_t tokens;   /* for training in all; 0: as many as the sources have */
    bool allow_fewer; /* as many as they have also where that is less than `tokens` */
    /* For each source and for the folder; no inputs, val_last, val_every or limits. */
    ml_build_config build;
} ml_mix_config;

/* As ml_data_build.  *sources: what each gave, as in meta.json; to be json_decref'd. */
ml_status ml_data_mix(const ml_mix_config *config, const ml_tokenizer *tokenizer, ml_build_result *result,
                      json_t **sources, ml_error *err);

#endif
