/* moonlight tokenizer train|encode|decode|info */
#include "cli/amount.h"
#include "cli/cli.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/log.h"
#include "data/count_words.h"
#include "format/open_tokenizer.h"
#include "token/chat.h"
#include "token/train.h"

#include <string.h>
#include <unistd.h>

static ml_status open_given(const ml_options *o, ml_tokenizer **out, ml_error *err)
{
    const char *path;
    ml_tokenizer_extra extra = { .pattern = ml_options_text(o, "pattern") };
    extra.n_added = ml_options_list(o, "added", &extra.added);
    ML_TRY(ml_cli_require(o, "tokenizer", &path, err));
    return ml_tokenizer_open_any(path, &extra, out, err);
}

/* A file, or standard input when path is NULL or "-". */
static ml_status read_input(const char *path, ml_chars *out, ml_error *err)
{
    FILE *file = path && strcmp(path, "-") != 0 ? fopen(path, "rbe") : stdin;
    if (!file) return ml_fail_errno(err, "%s: cannot be opened", path);
    char block[1 << 16];
    size_t n;
    ml_status status = ML_OK;
    while (status == ML_OK && (n = fread(block, 1, sizeof block, file)) > 0)
        status = ml_chars_append(out, block, n, err);
    if (status == ML_OK && ferror(file))
        status = ml_fail_errno(err, "%s: cannot be read", path ? path : "standard input");
    if (file != stdin) fclose(file);
    return status;
}

/* -- encode ------------------------------------------------------------------------------------- */

static ml_status print_ids(const ml_ids *ids, bool json, ml_error *err)
{
    if (!json) {
        for (size_t i = 0; i < ids->n; i++) printf("%s%d", i ? " " : "", ids->id[i]);
        printf("\n");
        return ML_OK;
    }
    json_t *list = json_array();
    for (size_t i = 0; list && i < ids->n; i++) {
        if (json_array_append_new(list, json_integer(ids->id[i])) == 0) continue;
        json_decref(list);
        list = NULL;
    }
    return ml_cli_print_json(list ? json_pack("{s:o}", "ids", list) : NULL, err);
}

static ml_status encode(const ml_options *o, const ml_tokenizer *t, ml_error *err)
{
    ml_chars text = { 0 };
    ml_ids ids = { 0 };
    size_t offsets[2];
    ml_status status = read_input(ml_options_positional_count(o) ? ml_options_positional(o, 0) : NULL, &text, err);
    if (status == ML_OK) {
        ml_text doc = { text.data, text.n };
        bool around = ml_options_flag(o, "around");
        if (around) status = ml_tokenizer_append_prefix(t, &ids, err);
        if (status == ML_OK) {
            status = ml_tokenizer_encode_many(t, &doc, 1, ml_options_flag(o, "special"), &ids, offsets, err);
        }
        if (status == ML_OK && around) status = ml_tokenizer_append_suffix(t, &ids, err);
    }
    if (status == ML_OK) status = print_ids(&ids, ml_options_flag(o, "json"), err);
    ml_chars_free(&text);
    ml_ids_free(&ids);
    return status;
}

/* -- decode ------------------------------------------------------------------------------------- */

/* Append the ids of a text: decimal numbers between spaces or commas, or JSON: [1, 2] or {"ids": [1, 2]}. */
static ml_status parse_ids(const char *text, size_t n, const char *where, ml_ids *ids, ml_error *err)
{
    for (size_t i = 0; i < n;) {
        if (strchr(" \t\r\n,", text[i])) { // a NUL byte counts as a space
            i++;
            continue;
        }
        int64_t id = 0;
        size_t begin = i;
        while (i < n && text[i] >= '0' && text[i] <= '9' && id <= INT32_MAX) id = id * 10 + (text[i++] - '0');
        if (i == begin || id > INT32_MAX) {
            return ml_fail(err, ML_EINVAL, "%s, offset %zu: expected token ids, found \"%.*s\"", where, begin,
                           (int)(n - begin < 40 ? n - begin : 40), text + begin);
        }
        int32_t narrow = (int32_t)id;
        ML_TRY(ml_ids_append(ids, &narrow, 1, err));
    }
    return ML_OK;
}

static ml_status parse_json_ids(const char *text, size_t n, const char *where, ml_ids *ids, ml_error *err)
{
    json_t *root;
    ML_TRY(ml_json_parse(text, n, where, &root, err));
    const json_t *list = json_is_object(root) ? json_object_get(root, "ids") : root;
    ml_status status = ML_OK;
    if (!json_is_array(list))
        status = ml_fail(err, ML_EFORMAT, "%s: expected an array of ids or {\"ids\": [...]}", where);
    for (size_t i = 0; i < json_array_size(list) && status == ML_OK; i++) {
        const json_t *id = json_array_get(list, i);
        json_int_t value = json_integer_value(id);
        if (!json_is_integer(id) || value < 0 || value > INT32_MAX) {
            status = ml_fail(err, ML_EFORMAT, "%s: ids[%zu]: expected a token id", where, i);
        } else {
            int32_t narrow = (int32_t)value;
            status = ml_ids_append(ids, &narrow, 1, err);
        }
    }
    json_decref(root);
    return status;
}

static ml_status read_ids(const ml_options *o, ml_ids *ids, ml_error *err)
{
    for (size_t i = 0; i < ml_options_positional_count(o); i++) {
        const char *text = ml_options_positional(o, i);
        ML_TRY(parse_ids(text, strlen(text), "argument", ids, err));
    }
    if (ml_options_positional_count(o)) return ML_OK;
    ml_chars text = { 0 };
    ml_status status = read_input(NULL, &text, err);
    if (status == ML_OK) {
        size_t at = 0;
        while (at < text.n && memchr(" \t\r\n", text.data[at], 4)) at++;
        bool json = at < text.n && (text.data[at] == '{' || text.data[at] == '[');
        status = json ? parse_json_ids(text.data, text.n, "standard input", ids, err)
                      : parse_ids(text.data, text.n, "standard input", ids, err);
    }
    ml_chars_free(&text);
    return status;
}

/* JSON text is UTF-8: bytes that are not come out as U+FFFD there. */
static ml_status print_text(const ml_tokenizer *t, const ml_ids *ids, bool skip_special, bool json, ml_error *err)
{
    const ml_detok how = { .skip_special = skip_special, .replace_invalid = json };
    ml_chars text = { 0 };
    ml_status status = ml_detok_append(how, t, ids->id, ids->n, &text, err);
    if (status == ML_OK && json) {
        status = ml_cli_print_json(json_pack("{s:s%}", "text", text.n ? text.data : "", text.n), err);
    } else if (status == ML_OK && text.n) {
        if (text.n) fwrite(text.data, 1, text.n, stdout);
    }
    ml_chars_free(&text);
    return status;
}

static ml_status decode(const ml_options *o, const ml_tokenizer *t, ml_error *err)
{
    ml_ids ids = { 0 };
    ml_status status = read_ids(o, &ids, err);
    if (status == ML_OK) {
        status = print_text(t, &ids, ml_options_flag(o, "skip-special"), ml_options_flag(o, "json"), err);
    }
    ml_ids_free(&ids);
    return status;
}

/* -- info --------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int32_t (*id)(const ml_tokenizer *t);
} roles[] = {
    { "bos", ml_tokenizer_bos }, { "eos", ml_tokenizer_eos }, { "unk", ml_tokenizer_unk }, { "pad", ml_tokenizer_pad }
};
enum { N_ROLES = sizeof roles / sizeof roles[0] };

static size_t count_tokens(const ml_tokenizer *t, bool (*is)(const ml_tokenizer *t, int32_t id))
{
    size_t n = 0;
    for (int32_t id = 0; id < ml_tokenizer_vocab_size(t); id++) n += is(t, id);
    return n;
}

static json_t *added_list(const ml_tokenizer *t)
{
    json_t *list = json_array();
    for (int32_t id = 0; list && id < ml_tokenizer_vocab_size(t); id++) {
        if (!ml_tokenizer_is_added(t, id)) continue;
        size_t n;
        const char *text = ml_tokenizer_piece(t, id, &n);
        json_array_append_new(
            list, json_pack("{s:i, s:s%, s:b}", "id", id, "text", text, n, "special", ml_tokenizer_is_special(t, id)));
    }
    return list;
}

/* The name of the chat format that goes with it. */
static const char *chat_format_of(const ml_tokenizer *t)
{
    ml_chat_format f;
    ml_error ignored;
    return ml_chat_choose(t, NULL, NULL, &f, &ignored) == ML_OK ? ml_chat_name(&f) : "unknown";
}

/* Ids that stand before or behind each text; NULL when memory is out. */
static json_t *around_list(const ml_tokenizer *t, bool behind)
{
    ml_ids ids = { 0 };
    ml_error ignored;
    json_t *list = json_array();
    if ((behind ? ml_tokenizer_append_suffix : ml_tokenizer_append_prefix)(t, &ids, &ignored) != ML_OK) {
        json_decref(list);
        return NULL;
    }
    for (size_t i = 0; i < ids.n; i++) json_array_append_new(list, json_integer(ids.id[i]));
    ml_ids_free(&ids);
    return list;
}

static json_t *info_json(const ml_tokenizer *t)
{
    json_t *o = json_pack("{s:s, s:i, s:I, s:s, s:s, s:b, s:b, s:o, s:o, s:o}", "kind", ml_tokenizer_kind(t),
                          "vocab_size", ml_tokenizer_vocab_size(t), "n_merges", (json_int_t)ml_tokenizer_merge_count(t),
                          "pattern", ml_tokenizer_pattern(t), "fingerprint", ml_tokenizer_fingerprint(t),
                          "chat_template", ml_tokenizer_chat_template(t) != NULL, "nfc", ml_tokenizer_is_nfc(t),
                          "before", around_list(t, false), "behind", around_list(t, true), "added", added_list(t));
    for (size_t i = 0; o && i < N_ROLES; i++) json_object_set_new(o, roles[i].name, json_integer(roles[i].id(t)));
    return o;
}

static void print_token(const ml_tokenizer *t, int32_t id, const char *label)
{
    size_t n;
    const char *text = ml_tokenizer_piece(t, id, &n);
    if (text) printf("%-14s%8d  %.*s\n", label, id, (int)n, text);
}

static void print_around(const ml_tokenizer *t, bool behind, const char *label)
{
    json_t *list = around_list(t, behind);
    for (size_t i = 0; i < json_array_size(list); i++) {
        print_token(t, (int32_t)json_integer_value(json_array_get(list, i)), label);
    }
    json_decref(list);
}

static void print_info(const ml_tokenizer *t)
{
    enum { SHOWN = 40 };
    printf("kind          %s\nvocabulary    %d ids (%zu added, %zu of them special)\nmerges        %zu\n"
           "pattern       %s\nfingerprint   %s\nchat format   %s%s\n",
           ml_tokenizer_kind(t), ml_tokenizer_vocab_size(t), count_tokens(t, ml_tokenizer_is_added),
           count_tokens(t, ml_tokenizer_is_special), ml_tokenizer_merge_count(t), ml_tokenizer_pattern(t),
           ml_tokenizer_fingerprint(t), chat_format_of(t), ml_tokenizer_chat_template(t) ? " (template)" : "");
    if (ml_tokenizer_is_nfc(t)) printf("normal form   C\n");
    for (size_t i = 0; i < N_ROLES; i++) print_token(t, roles[i].id(t), roles[i].name);
    print_around(t, false, "before texts");
    print_around(t, true, "behind texts");
    size_t n = 0;
    for (int32_t id = 0; id < ml_tokenizer_vocab_size(t); id++) {
        if (ml_tokenizer_is_added(t, id) && n++ < SHOWN) print_token(t, id, "added");
    }
    if (n > SHOWN) printf("              and %zu more; --json lists them all\n", n - SHOWN);
}

static ml_status info(const ml_options *o, const ml_tokenizer *t, ml_error *err)
{
    const char *folder = ml_options_text(o, "save");
    if (folder) ML_TRY(ml_tokenizer_save(t, folder, err));
    if (ml_options_flag(o, "json")) return ml_cli_print_json(info_json(t), err);
    print_info(t);
    return ML_OK;
}

/* -- train -------------------------------------------------------------------------------------- */

static ml_status count_words(const ml_options *o, ml_records *records, ml_bpe_trainer *trainer, ml_record_tally *tally,
                             ml_error *err)
{
    ml_count_words_config config = { .field = ml_options_text(o, "field"),
                                     .limit = ml_options_int(o, "docs"),
                                     .max_bad = ml_options_real(o, "max-bad"),
                                     .tell = true };
    config.progress = ml_progress_begin("counting", "MB", (double)ml_records_size(records) / 1e6);
    ml_status status = ml_data_count_words(records, &config, trainer, tally, err);
    ml_progress_end(config.progress);
    ML_TRY(status);
    if (tally->n_bad) {
        ml_log_warn("%s left out; the first: %s", ml_cli_count(tally->n_bad, "malformed record").text, tally->first);
    }
    return ML_OK;
}

static ml_status run_training(const ml_options *o, ml_records *records, ml_bpe_trainer *trainer, const char *folder,
                              ml_error *err)
{
    double begin = ml_clock_seconds();
    ml_record_tally tally;
    ML_TRY(count_words(o, records, trainer, &tally, err));
    ml_tokenizer *t = NULL;
    ml_progress *progress = ml_progress_begin("merging", "tokens", (double)ml_options_int(o, "vocab-size"));
    ml_status status = ml_bpe_trainer_finish(trainer, progress, &t, err);
    ml_progress_end(progress);
    if (status == ML_OK) status = ml_tokenizer_save(t, folder, err);
    if (status == ML_OK) {
        ml_log_info("%s: %d tokens from %lld documents with %zu different pieces, in %.1f s", folder,
                    ml_tokenizer_vocab_size(t), (long long)(tally.n_seen - tally.n_bad),
                    ml_bpe_trainer_n_words(trainer), ml_clock_seconds() - begin);
        if (ml_options_flag(o, "json")) status = ml_cli_print_json(info_json(t), err);
    }
    ml_tokenizer_free(t);
    return status;
}

static ml_status train(const ml_options *o, ml_error *err)
{
    ml_bpe_train_config config = {
        .vocab_size = (int32_t)ml_options_int(o, "vocab-size"),
        .pattern = ml_options_text(o, "pattern"),
        .ties = strcmp(ml_options_text(o, "ties"), "last") ? ML_BPE_TIES_FIRST : ML_BPE_TIES_LAST,
        .allow_fewer = ml_options_flag(o, "allow-fewer"),
    };
    config.n_special = ml_options_list(o, "special", &config.special);
    const char *folder;
    ML_TRY(ml_cli_require(o, "out", &folder, err));
    bool is_new = !ml_path_exists(folder);
    ML_TRY(ml_dir_make(folder, err)); /* before the work */
    size_t n_inputs = ml_options_positional_count(o);
    const char **inputs = ml_calloc(n_inputs, sizeof *inputs);
    if (!inputs) return ml_fail_memory(err, n_inputs * sizeof *inputs, "the names of the inputs");
    for (size_t i = 0; i < n_inputs; i++) inputs[i] = ml_options_positional(o, i);
    ml_records *records = NULL;
    ml_bpe_trainer *trainer = NULL;
    ml_stop_install();
    ml_status status = ml_bpe_trainer_make(&config, &trainer, err);
    if (status == ML_OK)
        status = ml_records_open_texts(inputs, n_inputs, ML_RULE_MARKER, ml_options_text(o, "marker"),
                                       ml_options_text(o, "field"), &records, err);
    if (status == ML_OK) status = run_training(o, records, trainer, folder, err);
    if (status != ML_OK && is_new) rmdir(folder); /* nothing is in it */
    ml_records_free(records);
    ml_bpe_trainer_free(trainer);
    ml_free(inputs);
    return status;
}

ml_status ml_cli_tokenizer_train(int argc, char **argv, ml_error *err)
{
    ml_options *o;
    ML_TRY(ml_cli_parse("tokenizer train", NULL, argc, argv, 1, SIZE_MAX, "text files", &o, err));
    ml_status status = train(o, err);
    ml_options_free(o);
    return status;
}

/* What encode, decode and info have in common. */
static ml_status with_tokenizer(const char *words, const char *arguments, size_t n_max, int argc, char **argv,
                                ml_status (*run)(const ml_options *o, const ml_tokenizer *t, ml_error *err),
                                ml_error *err)
{
    ml_options *o;
    ml_tokenizer *t = NULL;
    ML_TRY(ml_cli_parse(words, NULL, argc, argv, 0, n_max, arguments, &o, err));
    ml_status status = open_given(o, &t, err);
    if (status == ML_OK) status = run(o, t, err);
    ml_tokenizer_free(t);
    ml_options_free(o);
    return status;
}

ml_status ml_cli_tokenizer_encode(int argc, char **argv, ml_error *err)
{
    return with_tokenizer("tokenizer encode", "at most one file", 1, argc, argv, encode, err);
}

ml_status ml_cli_tokenizer_decode(int argc, char **argv, ml_error *err)
{
    return with_tokenizer("tokenizer decode", "token ids", SIZE_MAX, argc, argv, decode, err);
}

ml_status ml_cli_tokenizer_info(int argc, char **argv, ml_error *err)
{
    return with_tokenizer("tokenizer info", "no arguments", 0, argc, argv, info, err);
}
