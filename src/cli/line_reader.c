#include "cli/line_reader.h"

#include "base/alloc.h"
#include "base/file.h"

#include <histedit.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { HISTORY_LINES = 1000 };

struct ml_line_reader {
    const char *prompt;
    const char *const *words;
    EditLine *edit; /* NULL: input or output is no terminal */
    History *history;
    char history_path[ML_PATH_MAX]; /* "": nowhere */
    bool dropped;                   /* Ctrl-C */
    char *line;
    size_t capacity;
};

static char *prompt_of(EditLine *edit)
{
    ml_line_reader *r = NULL;
    el_get(edit, EL_CLIENTDATA, &r);
    return (char *)(uintptr_t)r->prompt; /* libedit does not write to it */
}

static unsigned char drop_line(EditLine *edit, int key)
{
    (void)key;
    ml_line_reader *r = NULL;
    el_get(edit, EL_CLIENTDATA, &r);
    r->dropped = true;
    fputs("^C\n", stdout);
    return CC_NEWLINE;
}

/* What all words that begin with line[n] have in common beyond it; *n_found of them. */
static size_t find_words(const char *const *words, const char *line, size_t n, const char **first, size_t *n_found)
{
    size_t common = 0;
    *n_found = 0;
    for (size_t i = 0; words[i]; i++) {
        if (strncmp(words[i], line, n) != 0) continue;
        if ((*n_found)++ == 0) {
            *first = words[i];
            common = strlen(words[i]);
        }
        size_t same = 0;
        while (same < common && words[i][same] == (*first)[same]) same++;
        common = same;
    }
    return *n_found ? common - n : 0;
}

/* Tab: as much as is certain, and a space behind a whole word; else the words that there may be. */
static unsigned char complete(EditLine *edit, int key)
{
    (void)key;
    ml_line_reader *r = NULL;
    const char *first = NULL;
    char more[64];
    size_t n_found;
    el_get(edit, EL_CLIENTDATA, &r);
    const LineInfo *info = el_line(edit);
    size_t n = (size_t)(info->cursor - info->buffer);
    if (n == 0 || info->cursor != info->lastchar) return CC_ERROR;
    size_t n_more = find_words(r->words, info->buffer, n, &first, &n_found);
    if (n_found == 0) return CC_ERROR;
    snprintf(more, sizeof more, "%.*s%s", (int)n_more, first + n, n_found == 1 ? " " : "");
    if (*more) return el_insertstr(edit, more) == 0 ? CC_REFRESH : CC_ERROR;
    fputc('\n', stdout);
    for (size_t i = 0; r->words[i]; i++) {
        if (!strncmp(r->words[i], info->buffer, n)) fprintf(stdout, "%s  ", r->words[i]);
    }
    fputc('\n', stdout);
    return CC_REDISPLAY;
}

/* $XDG_STATE_HOME/moonlight/history, ~/.local/state/moonlight/history; conversations are private. */
static void find_history(char path[ML_PATH_MAX])
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char folder[ML_PATH_MAX];
    ml_error ignored;
    int n = 0;
    *path = 0;
    if (state && *state == '/')
        n = snprintf(folder, sizeof folder, "%s/moonlight", state);
    else if (home && *home == '/')
        n = snprintf(folder, sizeof folder, "%s/.local/state/moonlight", home);
    if (n <= 0 || (size_t)n >= sizeof folder || ml_dir_make(folder, &ignored) != ML_OK) return;
    if (ml_path_join(path, folder, "history", &ignored) != ML_OK) *path = 0;
}

static ml_status start_editing(ml_line_reader *r, ml_error *err)
{
    HistEvent event;
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
    r->history = history_init();
    r->edit = r->history ? el_init("moonlight", stdin, stdout, stderr) : NULL;
    if (!r->edit) return ml_fail_memory(err, 0, "line editing");
    history(r->history, &event, H_SETSIZE, HISTORY_LINES);
    history(r->history, &event, H_SETUNIQUE, 1);
    find_history(r->history_path);
    if (*r->history_path) history(r->history, &event, H_LOAD, r->history_path);
    el_set(r->edit, EL_CLIENTDATA, r);
    el_set(r->edit, EL_PROMPT, prompt_of);
    el_set(r->edit, EL_EDITOR, "emacs");
    el_set(r->edit, EL_HIST, history, r->history);
    el_set(r->edit, EL_ADDFN, "drop-line", "forget what was typed", drop_line);
    el_set(r->edit, EL_SETTY, "-d", "-isig", NULL); /* Ctrl-C is a key while a line is typed */
    el_set(r->edit, EL_BIND, "^C", "drop-line", NULL);
    el_set(r->edit, EL_ADDFN, "complete", "finish the name of a command", complete);
    el_set(r->edit, EL_BIND, "^I", "complete", NULL);
    el_set(r->edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    return ML_OK;
}

ml_status ml_line_reader_make(const char *prompt, const char *const *words, ml_line_reader **out, ml_error *err)
{
    *out = NULL;
    ml_line_reader *r = ml_calloc(1, sizeof *r);
    if (!r) return ml_fail_memory(err, sizeof *r, "a reader of lines");
    r->prompt = prompt;
    r->words = words;
    ml_status status = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) ? start_editing(r, err) : ML_OK;
    if (status == ML_OK)
        *out = r;
    else
        ml_line_reader_free(r);
    return status;
}

void ml_line_reader_free(ml_line_reader *r)
{
    if (!r) return;
    if (r->edit) el_end(r->edit);
    if (r->history) history_end(r->history);
    free(r->line);
    ml_free(r);
}

bool ml_line_reader_is_terminal(const ml_line_reader *r)
{
    return r->edit != NULL;
}

static void remember(ml_line_reader *r)
{
    HistEvent event;
    history(r->history, &event, H_ENTER, r->line);
    if (*r->history_path) history(r->history, &event, H_SAVE, r->history_path);
}

static const char *read_terminal(ml_line_reader *r)
{
    int n = 0;
    r->dropped = false;
    const char *typed = el_gets(r->edit, &n);
    if (!r->dropped && (!typed || n <= 0)) return NULL;
    char *copy = strdup(r->dropped ? "" : typed);
    if (!copy) return NULL;
    free(r->line);
    r->line = copy;
    r->line[strcspn(r->line, "\n")] = 0;
    if (*r->line) remember(r);
    return r->line;
}

const char *ml_line_reader_next(ml_line_reader *r)
{
    if (r->edit) return read_terminal(r);
    ssize_t n = getline(&r->line, &r->capacity, stdin);
    if (n < 0) return NULL;
    if (n > 0 && r->line[n - 1] == '\n') r->line[--n] = 0;
    if (n > 0 && r->line[n - 1] == '\r') r->line[n - 1] = 0;
    return r->line;
}
