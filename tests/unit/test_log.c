/* Log lines, the progress bar on a terminal and elsewhere, stop signals. */
#include "base/alloc.h"
#include "base/log.h"
#include "support/support.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

static int saved_stderr = -1;

static void redirect_stderr(int fd)
{
    fflush(stderr);
    saved_stderr = dup(STDERR_FILENO);
    assert_true(dup2(fd, STDERR_FILENO) >= 0);
}

static void restore_stderr(void)
{
    fflush(stderr);
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
}

/* Run `work` with stderr on a pipe (terminal = false) or on a terminal of 40 columns; what it wrote is in text. */
static void capture(bool terminal, void (*work)(void), char *text, size_t size)
{
    int in, out;
    if (terminal) {
        in = posix_openpt(O_RDWR | O_NOCTTY);
        if (in < 0) {
            print_message("skipped: this machine gives no pseudo-terminals\n");
            skip();
        }
        assert_true(grantpt(in) == 0 && unlockpt(in) == 0);
        out = open(ptsname(in), O_RDWR | O_NOCTTY);
        struct winsize window = { .ws_row = 25, .ws_col = 40 };
        assert_int_equal(ioctl(out, TIOCSWINSZ, &window), 0);
    } else {
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        in = ends[0];
        out = ends[1];
    }
    assert_true(out >= 0);
    redirect_stderr(out);
    work();
    restore_stderr();
    assert_int_equal(fcntl(in, F_SETFL, O_NONBLOCK), 0);
    size_t n = 0;
    ssize_t got;
    while (n < size - 1 && (got = read(in, text + n, size - 1 - n)) > 0) n += (size_t)got;
    text[n] = 0;
    close(in);
    close(out);
}

static void work_some_steps(void)
{
    ml_progress *p = ml_progress_begin("train", "steps", 200);
    for (int i = 0; i <= 50; i++) ml_progress_update(p, i, "loss\n3.21 and more words than fit on one line");
    ml_log_info("wrote %s", "step_000050");
    ml_log_warn("disk is nearly full");
    ml_progress_end(p);
}

static void test_plain_lines_without_a_terminal(void **state)
{
    (void)state;
    char text[4096];
    capture(false, work_some_steps, text, sizeof text);
    /* Under ten seconds: nothing but the log lines and the closing line. */
    assert_ptr_equal(strstr(text, "moonlight: wrote step_000050\nmoonlight: warning: disk is nearly full\ntrain  25%"),
                     text);
    assert_non_null(strstr(text, "50/200 steps"));
    assert_non_null(strstr(text, "loss 3.21"));
    assert_null(strchr(text, '\r'));
    assert_null(strchr(text, '\033'));
    assert_ptr_equal(strrchr(text, '\n'), text + strlen(text) - 1);
}

static void test_bar_on_a_terminal(void **state)
{
    (void)state;
    char text[4096];
    setenv("TERM", "xterm", 1);
    capture(true, work_some_steps, text, sizeof text);
    assert_non_null(strstr(text, "\rtrain [>                       ]   0%"));
    /* A log line takes the bar away first and brings it back behind itself. */
    const char *line = strstr(text, "\r\033[Kmoonlight: wrote step_000050\r\n\rtrain [");
    assert_non_null(line);
    assert_non_null(strstr(line, "\r\033[Kmoonlight: warning"));
    /* No drawn line is wider than the terminal: it would wrap and stay. */
    const char *drawn = strstr(line, "\rtrain [") + 1;
    assert_true(strcspn(drawn, "\r\033") < 40);
    assert_non_null(strstr(line, "\r\033[Ktrain  25%"));
}

static void work_nested(void)
{
    ml_progress *outer = ml_progress_begin("outer", "files", 0);
    ml_progress *inner = ml_progress_begin("inner", "MB", 2);
    ml_progress_update(outer, 7, NULL);
    ml_progress_clear(inner);
    ml_progress_update(inner, 2, NULL);
    ml_progress_end(inner);
    ml_progress_update(outer, 8, NULL);
    ml_progress_end(outer);
    ml_progress *little = ml_progress_begin("little", "MB", 0);
    ml_progress_update(little, 0.000088, NULL);
    ml_progress_end(little);
}

static void test_bars_nest(void **state)
{
    (void)state;
    char text[4096];
    setenv("TERM", "xterm", 1);
    capture(true, work_nested, text, sizeof text);
    const char *inner = strstr(text, "inner [========================] 100%");
    assert_non_null(inner);
    assert_non_null(strstr(inner, "outer  8 files"));
    assert_null(strstr(text, "outer  7 files")); /* hidden while another is on the screen */
    assert_non_null(strstr(text, "little  0.0001 MB  in 0:00"));
}

static void test_out_of_memory_is_silent(void **state)
{
    (void)state;
    ml_alloc_fail_after(0);
    ml_progress *p = ml_progress_begin("train", "steps", 1);
    ml_alloc_fail_after(-1);
    assert_null(p);
    ml_progress_update(p, 1, NULL);
    ml_progress_clear(p);
    ml_progress_end(p);
}

static void test_first_signal_asks_second_ends(void **state)
{
    (void)state;
    assert_false(ml_stop_requested());
    ml_stop_set(true);
    assert_true(ml_stop_requested());
    ml_stop_set(false);
    assert_false(ml_stop_requested());
    fflush(NULL);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(STDERR_FILENO);
        ml_stop_install();
        raise(SIGTERM);
        if (!ml_stop_requested()) _exit(3);
        raise(SIGTERM);
        _exit(4);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGTERM);
}

/* ---- listeners ---- */

typedef struct {
    char said[1024];
} heard;

static void hear_message(void *arg, bool is_warning, const char *text)
{
    heard *h = arg;
    size_t n = strlen(h->said);
    snprintf(h->said + n, sizeof h->said - n, "%s%s|", is_warning ? "! " : "", text);
}

static void hear_progress(void *arg, const ml_trainer_progress *p)
{
    static const char *const phase[] = { "begin", "update", "end" };
    heard *h = arg;
    size_t n = strlen(h->said);
    snprintf(h->said + n, sizeof h->said - n, "%s %s %g/%g %s [%s]|", phase[p->phase], p->task, p->done, p->total,
             p->unit, p->note);
}

static heard ear;

static void work_heard(void)
{
    ml_error err;
    ml_progress *p;
    ml_listener listener = { .arg = &ear, .message = hear_message, .progress = hear_progress };
    ml_listener_say(&listener, "%d words", 2);
    ml_listener_warn(&listener, "careful");
    assert_ok(ml_progress_begin_for(&listener, "train", "steps", 4, &p, &err));
    ml_progress_update(p, 1, "loss\n3");
    ml_progress_update(p, 2, NULL);
    ml_progress_clear(p);
    ml_progress_end(p);
}

/* A listener is told everything, and nothing is shown. */
static void test_listener_hears_all(void **state)
{
    (void)state;
    char text[256];
    memset(&ear, 0, sizeof ear);
    capture(false, work_heard, text, sizeof text);
    assert_string_equal(text, "");
    assert_string_equal(ear.said, "2 words|! careful|begin train 0/4 steps []|update train 1/4 steps [loss 3]|"
                                  "update train 2/4 steps [loss 3]|end train 2/4 steps [loss 3]|");
}

static void test_listener_stops_its_own_work(void **state)
{
    (void)state;
    ml_error err;
    atomic_bool stop = false;
    ml_listener listener = { .stop = &stop }, deaf = { 0 };
    ml_progress *p, *q;
    assert_ok(ml_progress_begin_for(&listener, "a", "steps", 1, &p, &err));
    assert_ok(ml_progress_begin_for(&deaf, "b", "steps", 1, &q, &err));
    assert_false(ml_progress_stopped(p));
    atomic_store(&stop, true);
    assert_true(ml_progress_stopped(p));
    assert_false(ml_progress_stopped(q) || ml_progress_stopped(NULL));
    ml_stop_set(true);
    assert_true(ml_progress_stopped(q) && ml_progress_stopped(NULL));
    ml_stop_set(false);
    ml_progress_end(p);
    ml_progress_end(q);
    ml_listener_say(NULL, "nobody");
    ml_listener_say(&deaf, "nobody");
    ml_alloc_fail_after(0);
    ml_status status = ml_progress_begin_for(&deaf, "b", "steps", 1, &q, &err);
    ml_alloc_fail_after(-1);
    assert_int_equal(status, ML_ENOMEM);
    assert_null(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_listener_hears_all),
        cmocka_unit_test(test_listener_stops_its_own_work),
        cmocka_unit_test(test_plain_lines_without_a_terminal),
        cmocka_unit_test(test_bar_on_a_terminal),
        cmocka_unit_test(test_bars_nest),
        cmocka_unit_test(test_out_of_memory_is_silent),
        cmocka_unit_test(test_first_signal_asks_second_ends),
    };
    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
