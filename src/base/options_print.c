/* What a person reads: the effective options of a run, help, differences between runs. */
#include "base/alloc.h"
#include "base/columns.h"
#include "base/options_internal.h"

#include <ctype.h>
#include <string.h>

enum { INI_LINE_MAX = 198, HELP_COLUMN = 32, QUOTED_MAX = 1024 };

static void origin_text(const ml_options *o, ml_origin origin, char *out, size_t size)
{
    switch (origin.rank) {
    case ML_ORIGIN_DEFAULT: snprintf(out, size, "default"); break;
    case ML_ORIGIN_FILE: snprintf(out, size, "%s:%d", o->files[origin.file], origin.line); break;
    case ML_ORIGIN_ARGS: snprintf(out, size, "command line"); break;
    }
}

/* Whether inih would change the text: blanks at the ends, " ;" (a comment), bytes that end a line. */
static bool needs_quotes(const char *text)
{
    size_t n = strlen(text);
    if (n == 0 || text[0] == '"' || isspace((unsigned char)text[0]) || isspace((unsigned char)text[n - 1])) return true;
    for (const char *p = text; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == ';') return true;
    }
    return false;
}

/* The text as a recipe holds it; false when it does not fit. */
static bool quote(const char *text, char out[QUOTED_MAX])
{
    size_t n = 0;
    if (strlen(text) > INI_LINE_MAX) return false;
    if (!needs_quotes(text)) {
        strcpy(out, text);
        return true;
    }
    out[n++] = '"';
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\')
            n += (size_t)sprintf(out + n, "\\%c", c);
        else if (c < 0x20 || c == ';')
            n += (size_t)sprintf(out + n, "\\x%02x", c);
        else
            out[n++] = *p;
    }
    out[n++] = '"';
    out[n] = 0;
    return true;
}

static ml_status write_line(ml_file_writer *w, const char *section, const char *name, const char *text, ml_error *err)
{
    char quoted[QUOTED_MAX];
    if (!quote(text, quoted) || strlen(name) + 3 + strlen(quoted) > INI_LINE_MAX) {
        return ml_fail(err, ML_EINVAL,
                       "%s: %s.%s is too long to be recorded: expected at most about %d bytes, found %zu; shorten it "
                       "(a relative path?)",
                       w->path, section, name, INI_LINE_MAX - (int)strlen(name) - 3, strlen(text));
    }
    return ml_file_printf(w, err, "%s = %s\n", name, quoted);
}

static ml_status write_origin(const ml_options *o, ml_file_writer *w, ml_origin origin, ml_error *err)
{
    char text[ML_PATH_MAX + 32];
    origin_text(o, origin, text, sizeof text);
    return ml_file_printf(w, err, "; %s\n", text);
}

static ml_status write_value(const ml_options *o, ml_file_writer *w, size_t i, ml_error *err)
{
    const ml_option_row *row = &o->rows[i];
    const ml_option_value *value = &o->values[i];
    if (!*row->section) { /* an argument of the verb: on record, but no part of a recipe */
        for (size_t k = 0; k < value->n_items; k++) {
            char quoted[QUOTED_MAX];
            bool fits = quote(value->items[k], quoted);
            ML_TRY(ml_file_printf(w, err, "; --%s %s\n", row->name, fits ? quoted : "(long)"));
        }
        return ML_OK;
    }
    if (value->n_items == 0) return ml_file_printf(w, err, "; not set\n; %s =\n", row->name);
    ML_TRY(write_origin(o, w, value->origin, err));
    for (size_t k = 0; k < value->n_items; k++) {
        ML_TRY(write_line(w, row->section, row->name, value->items[k], err));
    }
    return ML_OK;
}

/* Whether row i is the first of its section in scope: sections come in the order of the table. */
static bool opens_section(const ml_options *o, size_t i)
{
    if (!ml_option_in_scope(&o->rows[i], o->verb)) return false;
    for (size_t k = 0; k < i; k++) {
        if (strcmp(o->rows[k].section, o->rows[i].section) == 0 && ml_option_in_scope(&o->rows[k], o->verb)) {
            return false;
        }
    }
    return true;
}

static bool is_member(const ml_options *o, size_t i, const char *section)
{
    return strcmp(o->rows[i].section, section) == 0 && ml_option_in_scope(&o->rows[i], o->verb);
}

static ml_status write_open_items(const ml_options *o, ml_file_writer *w, ml_error *err)
{
    for (size_t i = 0; i < o->n_open; i++) {
        ML_TRY(write_origin(o, w, o->open[i].origin, err));
        ML_TRY(write_line(w, o->open_section, o->open[i].name, o->open[i].value, err));
    }
    return ML_OK;
}

/* One section, or the arguments of the verb (section ""). */
static ml_status write_section(const ml_options *o, ml_file_writer *w, const char *section, ml_error *err)
{
    if (*section) ML_TRY(ml_file_printf(w, err, "\n[%s]\n", section));
    for (size_t i = 0; i < o->n_rows; i++) {
        if (is_member(o, i, section)) ML_TRY(write_value(o, w, i, err));
    }
    if (o->open_section && strcmp(section, o->open_section) == 0) ML_TRY(write_open_items(o, w, err));
    return ML_OK;
}

static ml_status write_all(const ml_options *o, ml_file_writer *w, ml_error *err)
{
    bool open_written = o->n_open == 0;
    ML_TRY(ml_file_printf(w, err, "; Effective options of moonlight %s, each under where it comes from.\n", o->verb));
    ML_TRY(write_section(o, w, "", err));
    for (size_t i = 0; i < o->n_rows; i++) {
        const char *section = o->rows[i].section;
        if (!*section || !opens_section(o, i)) continue;
        ML_TRY(write_section(o, w, section, err));
        open_written |= o->open_section && strcmp(section, o->open_section) == 0;
    }
    return open_written ? ML_OK : write_section(o, w, o->open_section, err);
}

ml_status ml_options_write_ini(const ml_options *o, const char *path, ml_error *err)
{
    ml_file_writer w;
    ML_TRY(ml_file_begin(&w, path, err));
    ml_status status = write_all(o, &w, err);
    if (status == ML_OK) status = ml_file_commit(&w, err);
    ml_file_abandon(&w);
    return status;
}

ml_status ml_options_write_section(const ml_options *o, const char *section, const char *head, const char *path,
                                   ml_error *err)
{
    ml_file_writer w;
    ML_TRY(ml_file_begin(&w, path, err));
    ml_status status = ml_file_printf(&w, err, "; %s\n", head);
    if (status == ML_OK) status = write_section(o, &w, section, err);
    if (status == ML_OK) status = ml_file_commit(&w, err);
    ml_file_abandon(&w);
    return status;
}

/* True for a flag that is off unless named: help shows the bare name. */
static bool is_switch(const ml_option_row *row)
{
    return row->type == ML_OPTION_FLAG && row->default_value && strcmp(row->default_value, "off") == 0;
}

void ml_option_print_name(const ml_option_row *row, char *out, size_t size)
{
    static const char *const metavars[] = {
        [ML_OPTION_FLAG] = "on|off", [ML_OPTION_INT] = "N",     [ML_OPTION_REAL] = "X",
        [ML_OPTION_TEXT] = "TEXT",   [ML_OPTION_CHOICE] = NULL, [ML_OPTION_LIST] = "TEXT"
    };
    const char *metavar = row->metavar ? row->metavar : metavars[row->type];
    if (!metavar) metavar = row->choices;
    if (is_switch(row)) metavar = "";
    snprintf(out, size, "%s%s%s%s%s%s%s", strlen(row->name) == 1 ? "-" : "--", row->section, *row->section ? "." : "",
             row->name, *metavar ? " " : "", metavar, row->type == ML_OPTION_LIST ? " ..." : "");
}

static void print_row(const ml_option_row *row, int n_columns, FILE *out)
{
    char name[160], help[512];
    ml_option_print_name(row, name, sizeof name);
    if (strlen(name) + 2 < HELP_COLUMN) {
        fprintf(out, "  %-*s", HELP_COLUMN - 2, name);
    } else {
        fputs("  ", out);
        ml_columns_print(out, name, 2, 6, n_columns);
        fprintf(out, "%*s", HELP_COLUMN, "");
    }
    bool says = row->default_value && !is_switch(row);
    snprintf(help, sizeof help, "%s%s%s%s", row->help, says ? " (default: " : "", says ? row->default_value : "",
             says ? ")" : "");
    ml_columns_print(out, help, HELP_COLUMN, HELP_COLUMN, n_columns);
}

void ml_options_print_help(const ml_options *o, FILE *out)
{
    int n_columns = ml_columns_of(out);
    for (size_t pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < o->n_rows; i++) {
            const char *section = o->rows[i].section;
            if ((*section != 0) != (pass == 1) || !opens_section(o, i)) continue;
            if (*section) fprintf(out, "\nSection [%s]:\n", section);
            for (size_t k = i; k < o->n_rows; k++) {
                if (is_member(o, k, section)) print_row(&o->rows[k], n_columns, out);
            }
        }
    }
    if (o->open_section) {
        fprintf(out, "\nSection [%s]: the keys of a model's config.json.\n", o->open_section);
    }
}

/* The value as one text: items of a list joined by ", ". */
static void join(const ml_option_value *value, char *out, size_t size)
{
    if (value->n_items == 0) snprintf(out, size, "(not set)");
    for (size_t k = 0, n = 0; k < value->n_items && n < size; k++) {
        n += (size_t)snprintf(out + n, size - n, "%s%s", k ? ", " : "", value->items[k]);
    }
}

static bool same_value(const ml_option_row *row, const ml_option_value *a, const ml_option_value *b)
{
    if (a->n_items != b->n_items) return false;
    if (row->type == ML_OPTION_FLAG || row->type == ML_OPTION_INT) return a->integer == b->integer;
    if (row->type == ML_OPTION_REAL) return !(a->real < b->real) && !(a->real > b->real);
    for (size_t k = 0; k < a->n_items; k++) {
        if (strcmp(a->items[k], b->items[k]) != 0) return false;
    }
    return true;
}

static const char *open_value(const ml_options *o, const char *name)
{
    for (size_t i = 0; i < o->n_open; i++) {
        if (strcmp(o->open[i].name, name) == 0) return o->open[i].value;
    }
    return NULL;
}

typedef void differs_fn(void *arg, const char *section, const char *name, const char *old_value, const char *new_value);

static void compare_open(const ml_options *old, const ml_options *o, differs_fn *differs, void *arg)
{
    for (size_t i = 0; i < old->n_open; i++) {
        const char *now = open_value(o, old->open[i].name);
        if (now && strcmp(now, old->open[i].value) == 0) continue;
        differs(arg, o->open_section, old->open[i].name, old->open[i].value, now ? now : "(not set)");
    }
    for (size_t i = 0; i < o->n_open; i++) {
        if (open_value(old, o->open[i].name)) continue;
        differs(arg, o->open_section, o->open[i].name, "(not set)", o->open[i].value);
    }
}

ml_status ml_options_compare_ini(const ml_options *o, const char *path, differs_fn *differs, void *arg, ml_error *err)
{
    ml_options *old;
    ML_TRY(ml_options_make(o->rows, o->n_rows, o->verb, o->open_section, &old, err));
    ml_status status = ml_options_parse_ini(old, path, err);
    for (size_t i = 0; i < o->n_rows && status == ML_OK; i++) {
        const ml_option_row *row = &o->rows[i];
        if (!*row->section || !ml_option_in_scope(row, o->verb)) continue;
        if (same_value(row, &old->values[i], &o->values[i])) continue;
        char before[1024], after[1024];
        join(&old->values[i], before, sizeof before);
        join(&o->values[i], after, sizeof after);
        differs(arg, row->section, row->name, before, after);
    }
    if (status == ML_OK) compare_open(old, o, differs, arg);
    ml_options_free(old);
    return status;
}
