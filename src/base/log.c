/* Progress bar and log lines (base/log.h).
 *
 * The terminal is one per process, so the bars being shown are a process-wide stack: the newest is on the
 * screen, and the one under it comes back when the newest ends. */
#include "base/log.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/columns.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LABEL_MAX = 64, UNIT_MAX = 24, NOTE_MAX = 160, LINE_MAX_BYTES = 1024, BAR_CELLS = 24 };

static const double redraw_seconds = 0.1; /* on a terminal */
static const double plain_seconds = 10;   /* elsewhere */
static const double rate_seconds = 0.5;   /* a rate over less than this is noise */

struct ml_progress {
    ml_progress *below;
    char label[LABEL_MAX], unit[UNIT_MAX], note[NOTE_MAX];
    double total, done;
    double begin_time;
    double base_time, base_done; /* the first update, where the rate is counted from: resumed work starts midway */
    bool has_base;
    double shown_time;
    bool terminal, on_screen;
    const ml_listener *listener; /* who is told; NULL: it is shown here */
};

static pthread_mutex_t screen = PTHREAD_MUTEX_INITIALIZER;
static ml_progress *top;

static void put(const char *line)
{
    fputs(line, stderr);
    fflush(stderr);
}

/* Copy text onto one line: control characters become spaces. */
static void copy_line(char *out, size_t size, const char *text)
{
    snprintf(out, size, "%s", text ? text : "");
    for (char *p = out; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f) *p = ' ';
    }
}

/* Cut a UTF-8 line to at most n_columns characters. */
static void cut_line(char *line, int n_columns)
{
    int n = 0;
    for (char *p = line; *p; p++) {
        if (((unsigned char)*p & 0xc0) == 0x80) continue;
        if (n++ == n_columns) {
            *p = 0;
            return;
        }
    }
}

static void append(char *line, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void append(char *line, const char *format, ...)
{
    size_t used = strlen(line);
    va_list args;
    va_start(args, format);
    vsnprintf(line + used, LINE_MAX_BYTES - used, format, args);
    va_end(args);
}

static void append_amount(char *line, double x)
{
    if (x >= 1e9)
        append(line, "%.3gG", x / 1e9);
    else if (x >= 1e6)
        append(line, "%.3gM", x / 1e6);
    else if (x >= 1e4)
        append(line, "%.3gk", x / 1e3);
    else if (x >= 100 || x == (double)(int64_t)x)
        append(line, "%.0f", x);
    else if (x < 1e-3)
        append(line, "%.4f", x);
    else
        append(line, "%.3g", x);
}

static void append_time(char *line, double seconds)
{
    long long s = seconds < 1e9 ? (long long)(seconds + 0.5) : 1000000000;
    if (s >= 3600)
        append(line, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        append(line, "%lld:%02lld", s / 60, s % 60);
}

/* Units per second, 0 when not known yet. */
static double rate_of(const ml_progress *p, double now)
{
    if (!p->has_base) return 0;
    double seconds = now - p->base_time;
    double units = p->done - p->base_done;
    return seconds >= rate_seconds && units > 0 ? units / seconds : 0;
}

static void append_bar(char *line, double fraction)
{
    char bar[BAR_CELLS + 1];
    int n_full = (int)(fraction * BAR_CELLS);
    memset(bar, ' ', BAR_CELLS);
    memset(bar, '=', (size_t)n_full);
    if (n_full < BAR_CELLS) bar[n_full] = '>';
    bar[BAR_CELLS] = 0;
    append(line, " [%s]", bar);
}

static void append_progress(char *line, const ml_progress *p, double now, bool bar, bool last)
{
    append(line, "%s", p->label);
    if (p->total > 0) {
        double fraction = p->done < 0 ? 0 : p->done > p->total ? 1 : p->done / p->total;
        if (bar) append_bar(line, fraction);
        append(line, " %3.0f%%", 100 * fraction);
    }
    append(line, "  ");
    append_amount(line, p->done);
    if (p->total > 0) {
        append(line, "/");
        append_amount(line, p->total);
    }
    append(line, " %s", p->unit);
    double rate = rate_of(p, now);
    if (rate > 0) {
        append(line, "  ");
        append_amount(line, rate);
        append(line, " %s/s", p->unit);
    }
    if (last) {
        append(line, "  in ");
        append_time(line, now - p->begin_time);
    } else if (rate > 0 && p->total > p->done) {
        append(line, "  ");
        append_time(line, (p->total - p->done) / rate);
        append(line, " left");
    }
    if (p->note[0]) append(line, "  %s", p->note);
}

/* Call with the screen held. */
static void erase(ml_progress *p)
{
    if (!p || !p->on_screen) return;
    put("\r\033[K");
    p->on_screen = false;
}

static void draw(ml_progress *p, double now)
{
    char line[LINE_MAX_BYTES] = "";
    append_progress(line, p, now, true, false);
    cut_line(line, ml_columns_of(stderr) - 1);
    fputs("\r", stderr);
    fputs(line, stderr);
    put("\033[K");
    p->on_screen = true;
    p->shown_time = now;
}

static void print_plain(ml_progress *p, double now, bool last)
{
    char line[LINE_MAX_BYTES] = "";
    append_progress(line, p, now, false, last);
    fprintf(stderr, "%s\n", line);
    fflush(stderr);
    p->shown_time = now;
}

ml_progress *ml_progress_begin(const char *label, const char *unit, double total)
{
    ml_progress *p = ml_calloc(1, sizeof *p);
    if (!p) return NULL;
    copy_line(p->label, sizeof p->label, label);
    copy_line(p->unit, sizeof p->unit, unit);
    const char *term = getenv("TERM");
    p->terminal = isatty(STDERR_FILENO) && !(term && strcmp(term, "dumb") == 0);
    p->total = total;
    p->begin_time = p->shown_time = ml_clock_seconds();
    pthread_mutex_lock(&screen);
    erase(top);
    p->below = top;
    top = p;
    if (p->terminal) draw(p, p->begin_time);
    pthread_mutex_unlock(&screen);
    return p;
}

static void tell(const ml_progress *p, ml_progress_phase phase)
{
    if (!p->listener->progress) return;
    ml_trainer_progress told = {
        .phase = phase, .task = p->label, .unit = p->unit, .note = p->note, .done = p->done, .total = p->total
    };
    p->listener->progress(p->listener->arg, &told);
}

ml_status ml_progress_begin_for(const ml_listener *listener, const char *label, const char *unit, double total,
                                ml_progress **out, ml_error *err)
{
    ml_progress *p = *out = ml_calloc(1, sizeof *p);
    if (!p) return ml_fail_memory(err, sizeof *p, "a progress");
    copy_line(p->label, sizeof p->label, label);
    copy_line(p->unit, sizeof p->unit, unit);
    p->total = total;
    p->listener = listener;
    tell(p, ML_PROGRESS_BEGIN);
    return ML_OK;
}

bool ml_progress_stopped(const ml_progress *p)
{
    if (p && p->listener && p->listener->stop && atomic_load(p->listener->stop)) return true;
    return ml_stop_requested();
}

void ml_progress_update(ml_progress *p, double done, const char *note)
{
    if (!p) return;
    if (p->listener) {
        p->done = done;
        if (note) copy_line(p->note, sizeof p->note, note);
        tell(p, ML_PROGRESS_UPDATE);
        return;
    }
    double now = ml_clock_seconds();
    pthread_mutex_lock(&screen);
    if (!p->has_base) {
        p->base_time = now;
        p->base_done = done;
        p->has_base = true;
    }
    p->done = done;
    if (note) copy_line(p->note, sizeof p->note, note);
    double every = p->terminal ? redraw_seconds : plain_seconds;
    if (p == top && (now - p->shown_time >= every || (p->terminal && !p->on_screen))) {
        if (p->terminal)
            draw(p, now);
        else
            print_plain(p, now, false);
    }
    pthread_mutex_unlock(&screen);
}

void ml_progress_clear(ml_progress *p)
{
    pthread_mutex_lock(&screen);
    erase(p);
    pthread_mutex_unlock(&screen);
}

void ml_progress_end(ml_progress *p)
{
    if (!p) return;
    if (p->listener) {
        tell(p, ML_PROGRESS_END);
        ml_free(p);
        return;
    }
    pthread_mutex_lock(&screen);
    erase(top);
    if (p->has_base) print_plain(p, ml_clock_seconds(), true);
    ml_progress **link = &top;
    while (*link != p) link = &(*link)->below;
    *link = p->below;
    pthread_mutex_unlock(&screen);
    ml_free(p);
}

/* The whole line goes out in one write, so that lines of several threads do not mix. */
static void log_line(const char *prefix, const char *format, va_list args)
{
    char line[4096];
    int n = snprintf(line, sizeof line, "%s", prefix);
    vsnprintf(line + n, sizeof line - (size_t)n - 1, format, args);
    strcat(line, "\n");
    pthread_mutex_lock(&screen);
    ml_progress *shown = top && top->on_screen ? top : NULL;
    erase(shown);
    put(line);
    if (shown) draw(shown, ml_clock_seconds());
    pthread_mutex_unlock(&screen);
}

void ml_log_info(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_line("moonlight: ", format, args);
    va_end(args);
}

void ml_log_warn(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_line("moonlight: warning: ", format, args);
    va_end(args);
}

static void say(const ml_listener *listener, bool is_warning, const char *format, va_list args)
{
    char line[4096];
    if (!listener || !listener->message) return;
    vsnprintf(line, sizeof line, format, args);
    listener->message(listener->arg, is_warning, line);
}

void ml_listener_say(const ml_listener *listener, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(listener, false, format, args);
    va_end(args);
}

void ml_listener_warn(const ml_listener *listener, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    say(listener, true, format, args);
    va_end(args);
}
