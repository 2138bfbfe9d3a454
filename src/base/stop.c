/* Stop signals (base/log.h). */
#include "base/log.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

static _Atomic bool stop_requested; /* lock-free, so a signal handler may touch it */

static void on_signal(int number)
{
    static const char notice[] = "\nmoonlight: stopping at the next safe point; the same signal again ends at once\n";
    if (atomic_exchange(&stop_requested, true)) {
        signal(number, SIG_DFL);
        raise(number); /* delivered when this handler returns */
        return;
    }
    ssize_t ignored = write(STDERR_FILENO, notice, sizeof notice - 1);
    (void)ignored;
}

void ml_stop_install(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool ml_stop_requested(void)
{
    return atomic_load(&stop_requested);
}

void ml_stop_set(bool stop)
{
    atomic_store(&stop_requested, stop);
}
