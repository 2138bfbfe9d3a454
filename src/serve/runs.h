/* Run folders below --runs. */
#ifndef ML_SERVE_RUNS_H
#define ML_SERVE_RUNS_H

#include "base/file.h"
#include "serve/web.h"

/* The folder of the run that h->id names; 404 unless it holds a log.jsonl. */
ml_status ml_run_folder_of(ml_web *h, char folder[ML_PATH_MAX], ml_error *err);

#endif
