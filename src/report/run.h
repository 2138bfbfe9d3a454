/* A run folder as a report sees it: settings, log, samples, checkpoints. */
#ifndef ML_REPORT_RUN_H
#define ML_REPORT_RUN_H

#include "base/file.h"
#include "base/json.h"
#include "model/config.h"
#include "report/log.h"

/* A line of options.ini. */
typedef struct {
    char *name, *value; /* "optim.lr"; "" when it is not set */
    bool is_given;      /* by a recipe or the command line */
} ml_report_setting;

/* A checkpoint that is looked at. */
typedef struct {
    int64_t step;
    char path[ML_PATH_MAX];
    bool is_best;
} ml_report_checkpoint;

typedef struct {
    char folder[ML_PATH_MAX];
    char *name;     /* its last part, or the folder as given where two have the same */
    char stage[16]; /* "pretrain", "sft", "dpo"; "run" when options.ini does not say */
    char *options;  /* the text of options.ini; NULL: there is none */
    ml_report_setting *setting;
    size_t n_setting;
    ml_report_log log;
    json_t *samples; /* array of the objects of samples.jsonl */
    json_t *evals;   /* array of the objects of evals.jsonl, which `moonlight eval` writes (scores.h) */
    ml_report_checkpoint *checkpoint;
    size_t n_checkpoint;
    bool has_config;
    ml_config config; /* of the best checkpoint */
} ml_report_run;

/* Read a run; of its checkpoints at most max_checkpoint, the best, the last and some evenly between, by step.  Start
 * zeroed.  ML_EINVAL when the folder is no run (it has no log.jsonl); ML_EFORMAT with file and line for damage. */
ml_status ml_report_run_read(ml_report_run *r, const char *folder, size_t max_checkpoint, ml_error *err);
void ml_report_run_free(ml_report_run *r);

/* The value of a setting; NULL when there is none. */
const char *ml_report_run_setting(const ml_report_run *r, const char *name);
/* The lowest validation loss and its step; NaN and -1 when there is none. */
double ml_report_run_best_loss(const ml_report_run *r, int64_t *step);
/* A number of the last step; NaN. */
double ml_report_run_last(const ml_report_run *r, const char *name);
/* Sum and mean over all steps that have it. */
double ml_report_run_sum(const ml_report_run *r, const char *name);
double ml_report_run_mean(const ml_report_run *r, const char *name);
double ml_report_run_max(const ml_report_run *r, const char *name);

#endif
