/* What moonlight data build shows of the sources of a mixture. */
#ifndef ML_CLI_DATA_SOURCES_H
#define ML_CLI_DATA_SOURCES_H

#include "base/json.h"
#include "data/source_list.h"

/* Add the sizes of all files to *n_bytes. */
ml_status ml_cli_source_bytes(const ml_source_list *list, double *n_bytes, ml_error *err);
/* A table, from what meta.json says of each source; nothing for NULL. */
void ml_cli_print_sources(const json_t *sources);

#endif
