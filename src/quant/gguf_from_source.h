/* The tensors of a GGUF file out of a weight source of any format: stacked, transposed and reordered as that file has
 * them. */
#ifndef ML_QUANT_GGUF_FROM_SOURCE_H
#define ML_QUANT_GGUF_FROM_SOURCE_H

#include "format/gguf_layout.h"
#include "model/source.h"

/* Rows [row, row + n_row) of one part of `e` as fp32, [n_row, e->cols]. */
ml_status ml_gguf_fill_from_source(const ml_weight_source *source, const ml_config *config, const ml_gguf_entry *e,
                                   int64_t part, int64_t row, int64_t n_row, float *out, ml_error *err);
/* The weight of one part, where e->form is ML_GGUF_AS_IS: its `data`, if there is any, is what the file shall have when
 * the types are the same. */
ml_status ml_gguf_find_in_source(const ml_weight_source *source, const ml_gguf_entry *e, int64_t part,
                                 ml_stored_weight *out, ml_error *err);
/* The type that keeps what the source has: of one part, where all have the same, else f32. */
ml_status ml_gguf_type_in_source(const ml_weight_source *source, const ml_config *config, const ml_gguf_entry *e,
                                 ml_dtype *out, ml_error *err);

#endif
