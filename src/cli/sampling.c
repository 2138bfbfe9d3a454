#include "cli/sampling.h"

ml_sampling ml_cli_sampling(const ml_options *o)
{
    return (ml_sampling){ .temperature = ml_options_real(o, "temperature"),
                          .top_k = ml_options_int(o, "top-k"),
                          .top_p = ml_options_real(o, "top-p"),
                          .min_p = ml_options_real(o, "min-p"),
                          .repetition_penalty = ml_options_real(o, "repetition-penalty"),
                          .repetition_window = ml_options_int(o, "repetition-window"),
                          .seed = (uint64_t)ml_options_int(o, "seed") };
}
