/* What the verbs `data build` and `data info` share. */
#ifndef ML_CLI_DATA_H
#define ML_CLI_DATA_H

#include "cli/cli.h"
#include "data/records.h"

/* --documents */
ml_document_rule ml_cli_document_rule(const ml_options *o);

#endif
