/* What a person sees while work runs.  Only src/cli and the callbacks it hands down print; library code
 * reports progress through this interface, and a NULL ml_progress is silent.
 *
 * A progress either belongs to the program, which shows it, or to a listener, who is told instead.  On a terminal a
 * progress bar redraws one line on stderr (label, bar, percentage, rate, time left, note); elsewhere a plain line
 * appears at most every ten seconds and one at the end. */
#ifndef ML_BASE_LOG_H
#define ML_BASE_LOG_H

#include "base/status.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct ml_progress ml_progress;

/* Whoever started a long piece of library work: told what it does, and able to stop it.  Each may be NULL. */
typedef struct {
    void *arg;
    void (*message)(void *arg, bool is_warning, const char *text); /* one line, for a person */
    void (*progress)(void *arg, const ml_trainer_progress *progress);
    const atomic_bool *stop;
} ml_listener;

/* A line to the listener (NULL: nobody). */
void ml_listener_say(const ml_listener *listener, const char *format, ...) __attribute__((format(printf, 2, 3)));
void ml_listener_warn(const ml_listener *listener, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* `total` units of work (0: unknown), named e.g. "MB" or "steps".  NULL when memory is out: then silent. */
ml_progress *ml_progress_begin(const char *label, const char *unit, double total);
/* The same for a listener, who must outlive it: nothing is shown, and one thread at a time may use it. */
ml_status ml_progress_begin_for(const ml_listener *listener, const char *label, const char *unit, double total,
                                ml_progress **out, ml_error *err);
/* `done` units so far; `note` (NULL: as before) is shown at the end of the line, e.g. "loss 3.21".  The rate is
 * counted from the first update: work resumed midway makes one before it starts.  Thread safe. */
void ml_progress_update(ml_progress *p, double done, const char *note);
/* Take the bar off the line so that something else can be printed; the next update redraws it. */
void ml_progress_clear(ml_progress *p);
/* Final line, if anything was begun (updated), and free.  NULL is legal. */
void ml_progress_end(ml_progress *p);
/* Whether the work is to stop: its listener says so, or ml_stop_requested().  NULL is legal. */
bool ml_progress_stopped(const ml_progress *p);

/* A line on stderr, prefixed "moonlight: "; clears and redraws a running progress bar. */
void ml_log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void ml_log_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* SIGINT/SIGTERM: after ml_stop_install, the first signal makes ml_stop_requested() true (long work polls
 * it, finishes what must be finished, saves, and returns ML_ECANCEL); a second one ends the program. */
void ml_stop_install(void);
bool ml_stop_requested(void);
/* Tests and embedding programs: as if a signal had come (true), or back to normal (false). */
void ml_stop_set(bool stop);

#endif
