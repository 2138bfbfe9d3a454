/* Problems with a known answer, as the public sets of mathematics have them, from any file of records (records.h).
 *
 *   what is asked    "prompt": messages, or a text        as it is: it says itself how to answer
 *                    "problem", "question": a text        with an instruction behind it (GSM8K, MATH-500, AIME)
 *   the answer       "label", "answer", "solution"        the first there is, a text or a whole number
 *
 * An answer is read as reward/reward.h reads labels: bare, in the last \boxed{...}, or behind GSM8K's ####. */
#ifndef ML_DATA_PROBLEMS_H
#define ML_DATA_PROBLEMS_H

#include "base/alloc.h"
#include "base/json.h"

typedef struct {
    json_t *messages; /* [{role, content}, ...], ending with a user's */
    char *label;      /* as it stands in the file */
    uint64_t number;  /* line or row */
} ml_problem;

typedef struct {
    ml_problem *problem; /* [n] */
    size_t n, capacity;
} ml_problems;

/* All problems of a file, or the first `limit` (0: all), behind those in *out (start zeroed); `instruction` goes behind
 * a bare problem, with an empty line between ("": nothing).  ML_EFORMAT naming file and line when something is missing
 * or of another type, ML_EINVAL when there is none at all. */
ml_status ml_problems_read(const char *path, int64_t limit, const char *instruction, ml_problems *out, ml_error *err);
void ml_problems_free(ml_problems *p);
/* What the last message says. */
const char *ml_problem_text(const ml_problem *p);

#endif
