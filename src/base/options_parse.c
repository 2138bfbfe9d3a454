/* Where values come from: the command line and recipe files. */
#include "base/alloc.h"
#include "base/nearest.h"
#include "base/options_internal.h"

#include <ctype.h>
#include <ini.h>
#include <string.h>
#include <strings.h>

enum { PATH_NAME_MAX = 128 };

static void path_of(const char *section, const char *name, char out[PATH_NAME_MAX])
{
    snprintf(out, PATH_NAME_MAX, "%s%s%s", section, *section ? "." : "", name);
}

/* Add the verbs of a scope, as they are typed, to a list. */
static void list_verbs(const char *scope, char *out, size_t size)
{
    size_t n = strlen(out);
    if (n && n < size) n += (size_t)snprintf(out + n, size - n, ", ");
    for (; *scope && n + 3 < size; scope++) {
        if (*scope == ' ') out[n++] = ',';
        out[n++] = *scope == ':' ? ' ' : *scope;
    }
    if (n < size) out[n] = 0;
}

/* "unknown option <dashes>section.name" with the nearest valid name, or the verbs that have it. */
static ml_status fail_unknown(const ml_options *o, const char *dashes, const char *section, const char *name,
                              ml_error *err)
{
    char typed[PATH_NAME_MAX], best[PATH_NAME_MAX] = "", path[PATH_NAME_MAX];
    char elsewhere[256] = "";
    int distance = 0;
    path_of(section, name, typed);
    for (size_t i = 0; i < o->n_rows; i++) {
        const ml_option_row *row = &o->rows[i];
        bool in_scope = ml_option_in_scope(row, o->verb);
        path_of(row->section, row->name, path);
        if (!in_scope && strcmp(path, typed) == 0) list_verbs(row->scope, elsewhere, sizeof elsewhere);
        if (!in_scope || (!*dashes && !*row->section)) continue;
        /* A forgotten or mistaken section costs one mistake when the rest is right. */
        ml_nearest whole = ml_nearest_begin(typed);
        ml_nearest_offer(&whole, path);
        bool same_name = strcmp(row->name, name) == 0;
        if (!whole.best && !same_name) continue;
        int mistakes = same_name && (!whole.best || whole.distance > 1) ? 1 : whole.distance;
        if (*best && mistakes >= distance) continue;
        memcpy(best, path, sizeof best);
        distance = mistakes;
    }
    if (*elsewhere) {
        return ml_fail(err, ML_EINVAL, "%s%s is not an option of this verb; these have it: %s", dashes, typed,
                       elsewhere);
    }
    if (*best) return ml_fail(err, ML_EINVAL, "unknown option %s%s; did you mean %s%s?", dashes, typed, dashes, best);
    return ml_fail(err, ML_EINVAL, "unknown option %s%s; --help lists the valid ones", dashes, typed);
}

/* A key of the open section that is not a row of the table. */
static bool is_open_key(const ml_options *o, const char *section, const char *name)
{
    return o->open_section && strcmp(section, o->open_section) == 0 && *name &&
           ml_options_find(o, section, name) == o->n_rows;
}

static ml_status store_argument(ml_options *o, const char *section, const char *name, const char *value, ml_error *err)
{
    ml_origin origin = { .rank = ML_ORIGIN_ARGS };
    char path[PATH_NAME_MAX];
    path_of(section, name, path);
    ml_status status;
    if (is_open_key(o, section, name)) {
        status = ml_options_store_open(o, name, value, origin, err);
    } else {
        size_t row = ml_options_find(o, section, name);
        if (row == o->n_rows) return fail_unknown(o, "--", section, name, err);
        status = ml_options_store(o, row, value, origin, err);
    }
    return status == ML_EINVAL ? ml_fail_prefix(err, "--%s", path) : status;
}

ml_status ml_options_set(ml_options *o, const char *section, const char *name, const char *value, ml_error *err)
{
    return store_argument(o, section, name, value, err);
}

/* "section.name" -> section, name; no dot: section "". */
static ml_status split_name(const char *typed, size_t n, char section[PATH_NAME_MAX], char name[PATH_NAME_MAX],
                            ml_error *err)
{
    if (n >= PATH_NAME_MAX) {
        return ml_fail(err, ML_EINVAL, "unknown option --%.40s...; --help lists the valid ones", typed);
    }
    const char *dot = memchr(typed, '.', n);
    size_t n_section = dot ? (size_t)(dot - typed) : 0;
    memcpy(section, typed, n_section);
    section[n_section] = 0;
    size_t at = dot ? n_section + 1 : 0;
    memcpy(name, typed + at, n - at);
    name[n - at] = 0;
    return ML_OK;
}

ml_status ml_options_assign(ml_options *o, const char *assignment, ml_error *err)
{
    char section[PATH_NAME_MAX], name[PATH_NAME_MAX];
    size_t n = strcspn(assignment, "=");
    if (!assignment[n] || !memchr(assignment, '.', n)) {
        return ml_fail(err, ML_EINVAL, "expected section.key=value, found \"%.80s\"", assignment);
    }
    ML_TRY(split_name(assignment, n, section, name, err));
    return store_argument(o, section, name, assignment + n + 1, err);
}

/* A word that may follow a flag as its value.  Digits may not: they are more likely positional. */
static bool is_flag_word(const char *text)
{
    static const char *const words[] = { "on", "off", "true", "false", "yes", "no" };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strcasecmp(text, words[i]) == 0) return true;
    }
    return false;
}

/* One option at argv[*i] whose name begins at `typed`; moves *i to the last argument used. */
static ml_status parse_option(ml_options *o, const char *typed, int argc, char **argv, int *i, ml_error *err)
{
    char section[PATH_NAME_MAX], name[PATH_NAME_MAX];
    size_t n = strcspn(typed, "=");
    ML_TRY(split_name(typed, n, section, name, err));
    bool open = is_open_key(o, section, name);
    size_t row = open ? o->n_rows : ml_options_find(o, section, name);
    if (!open && row == o->n_rows) return fail_unknown(o, "--", section, name, err);
    if (typed[n] == '=') return store_argument(o, section, name, typed + n + 1, err);
    const char *next = *i + 1 < argc ? argv[*i + 1] : NULL;
    if (!open && o->rows[row].type == ML_OPTION_FLAG) {
        if (next && is_flag_word(next))
            ++*i;
        else
            next = "on";
        return store_argument(o, section, name, next, err);
    }
    if (!next || strncmp(next, "--", 2) == 0) {
        return ml_fail(err, ML_EINVAL, "%s needs a value; one that begins with -- is written %s=VALUE", argv[*i],
                       argv[*i]);
    }
    ++*i;
    return store_argument(o, section, name, next, err);
}

ml_status ml_options_parse_args(ml_options *o, int argc, char **argv, ml_error *err)
{
    bool only_positional = false;
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        bool letter = arg[0] == '-' && isalpha((unsigned char)arg[1]);
        if (!only_positional && strcmp(arg, "--") == 0) {
            only_positional = true;
        } else if (!only_positional && strncmp(arg, "--", 2) == 0) {
            ML_TRY(parse_option(o, arg + 2, argc, argv, &i, err));
        } else if (!only_positional && letter && (arg[2] == 0 || arg[2] == '=')) {
            ML_TRY(parse_option(o, arg + 1, argc, argv, &i, err));
        } else if (!only_positional && letter) {
            return ml_fail(err, ML_EINVAL, "unknown option %s; long names begin with two dashes: -%s", arg, arg);
        } else {
            ML_TRY(ml_options_append_text(&o->positional, &o->n_positional, &o->positional_capacity, arg, err));
        }
    }
    return ML_OK;
}

/* One recipe being read.  inih asks for lines through read_line, so the line number is known when it hands
 * over a value. */
typedef struct {
    ml_options *o;
    const char *path;
    const char *at, *end; /* text not read yet */
    int line;
    int file;
    ml_status status; /* the first failure; nothing is stored after it */
    ml_error *err;
} recipe;

/* fgets for inih.  Leading blanks go, since inih takes an indented line for more of the value above. */
static char *read_line(char *out, int size, void *arg)
{
    recipe *r = arg;
    if (r->at == r->end || r->status != ML_OK) return NULL;
    r->line++;
    const char *newline = memchr(r->at, '\n', (size_t)(r->end - r->at));
    const char *stop = newline ? newline : r->end;
    while (r->at < stop && isspace((unsigned char)*r->at)) r->at++;
    size_t n = (size_t)(stop - r->at);
    while (n && isspace((unsigned char)r->at[n - 1])) n--;
    if (n && (*r->at == '#' || *r->at == ';')) n = 0;
    if (n + 2 > (size_t)size) {
        r->status = ml_fail(r->err, ML_EINVAL, "%s:%d: expected a line of a recipe, of at most %d bytes, found %zu",
                            r->path, r->line, size - 2, n);
        return NULL;
    }
    memcpy(out, r->at, n);
    out[n] = '\n';
    out[n + 1] = 0;
    r->at = newline ? newline + 1 : r->end;
    return out;
}

static int hex_digit(char c)
{
    return isdigit((unsigned char)c) ? c - '0' : isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10 : -1;
}

/* A value in double quotes may hold \\ \" \n \r \t and \xHH; others are taken as they stand.  out is as large
 * as text. */
static bool unquote(const char *text, char *out)
{
    size_t n = strlen(text);
    if (n == 0 || text[0] != '"') {
        memcpy(out, text, n + 1);
        return true;
    }
    if (n < 2 || text[n - 1] != '"') return false;
    for (const char *p = text + 1, *end = text + n - 1; p < end; p++) {
        if (*p == '"') return false;
        if (*p != '\\') {
            *out++ = *p;
            continue;
        }
        static const char letters[] = "\\\"nrt", meanings[] = "\\\"\n\r\t";
        const char *letter = ++p < end ? strchr(letters, *p) : NULL;
        if (letter) {
            *out++ = meanings[letter - letters];
        } else if (end - p >= 3 && *p == 'x' && hex_digit(p[1]) >= 0 && hex_digit(p[2]) >= 0) {
            *out++ = (char)(hex_digit(p[1]) * 16 + hex_digit(p[2]));
            p += 2;
        } else {
            return false;
        }
    }
    *out = 0;
    return true;
}

static ml_status store_line(recipe *r, const char *section, const char *name, const char *text)
{
    ml_options *o = r->o;
    ml_origin origin = { ML_ORIGIN_FILE, r->file, r->line };
    char value[512];
    if (!*section) {
        return ml_fail(r->err, ML_EINVAL,
                       "\"%s\" stands before any [section]; arguments of a verb belong on the command line", name);
    }
    if (strlen(text) >= sizeof value || !unquote(text, value)) {
        return ml_fail(r->err, ML_EINVAL,
                       "%s.%s: expected a value in double quotes to end with one and to hold only the escapes "
                       "\\\\ \\\" \\n \\r \\t \\xHH, found %.100s",
                       section, name, text);
    }
    ml_status status;
    if (is_open_key(o, section, name)) {
        status = ml_options_store_open(o, name, value, origin, r->err);
    } else {
        size_t row = ml_options_find(o, section, name);
        if (row == o->n_rows) return fail_unknown(o, "", section, name, r->err);
        status = ml_options_store(o, row, value, origin, r->err);
    }
    return status == ML_EINVAL ? ml_fail_prefix(r->err, "%s.%s", section, name) : status;
}

static int on_value(void *arg, const char *section, const char *name, const char *value)
{
    recipe *r = arg;
    if (r->status != ML_OK) return 1;
    r->status = store_line(r, section, name, value);
    if (r->status == ML_EINVAL) ml_fail_prefix(r->err, "%s:%d", r->path, r->line);
    return 1;
}

ml_status ml_options_parse_ini_text(ml_options *o, const char *origin, const char *text, size_t size, ml_error *err)
{
    recipe r = { .o = o, .path = origin, .at = text, .end = text + size, .file = (int)o->n_files, .err = err };
    if (memchr(text, 0, size)) {
        return ml_fail(err, ML_EFORMAT,
                       "%s: expected a recipe (text of [section] and name = value lines), found a binary file", origin);
    }
    ML_TRY(ml_options_append_text(&o->files, &o->n_files, &o->files_capacity, origin, err));
    int bad_line = ini_parse_stream(read_line, &r, on_value, &r);
    /* What inih cannot read comes first: a value may only look wrong because of it. */
    if (bad_line > 0 && (r.status == ML_OK || (r.status == ML_EINVAL && bad_line < r.line))) {
        return ml_fail(err, ML_EINVAL, "%s:%d: expected [section] or name = value", origin, bad_line);
    }
    if (r.status == ML_OK && bad_line < 0) return ml_fail_memory(err, size, origin);
    return r.status;
}

ml_status ml_options_parse_ini(ml_options *o, const char *path, ml_error *err)
{
    char *text;
    size_t size;
    ML_TRY(ml_file_read(path, &text, &size, err));
    ml_status status = ml_options_parse_ini_text(o, path, text, size, err);
    ml_free(text);
    return status;
}
