#include "data/synth.h"

#include "base/alloc.h"
#include "base/file.h"
#include "base/thread.h"
#include "data/arithmetic.h"
#include "data/stories.h"

#include <string.h>

/* Documents are made in rounds of N_PART parts, each by one thread, and written in order. */
enum {
    PART_DOCUMENTS = 64,
    N_PART = 128,
    /* A document: a story or problem, at most doubled by escapes, with the keys of its JSON line. */
    DOCUMENT_MAX = 2 * ML_STORY_MAX + 256,
};

typedef struct {
    char *text; /* [PART_DOCUMENTS * DOCUMENT_MAX] */
    size_t end[PART_DOCUMENTS];
} part;

typedef struct {
    const ml_synth_config *config;
    uint64_t first; /* document of the round */
    part part[N_PART];
} round_work;

/* Append `text` as the inside of a JSON string.  Our texts are ASCII without control characters but newline. */
static size_t put_escaped(char *out, const char *text)
{
    size_t n = 0;
    for (; *text; text++) {
        if (*text == '"' || *text == '\\' || *text == '\n') out[n++] = '\\';
        out[n++] = *text == '\n' ? 'n' : *text;
    }
    return n;
}

static size_t put_text(char *out, const char *text)
{
    size_t n = strlen(text);
    memcpy(out, text, n);
    return n;
}

static size_t put_pair(char *out, const char *before, const char *value)
{
    size_t n = put_text(out, before);
    n += put_escaped(out + n, value);
    return n + put_text(out + n, "\"");
}

static size_t make_story(const ml_synth_config *c, uint64_t index, char *out)
{
    ml_story_plan plan;
    char text[ML_STORY_MAX];
    ml_story_plan_draw(c->seed, index, &plan);
    ml_story_tell(&plan, text);
    if (!c->jsonl) return put_text(out, text);
    size_t n = put_pair(out, "{\"text\": \"", text);
    n += put_pair(out + n, ", \"theme\": \"", ml_story_list_word(ML_STORY_THEME, plan.theme));
    return n + put_text(out + n, "}");
}

static size_t make_problem(const ml_synth_config *c, uint64_t index, char *out)
{
    ml_problem p;
    char response[256], text[512];
    ml_arithmetic_draw(c->seed, index, &p);
    snprintf(response, sizeof response, "%s\nAnswer: %s", p.work, p.label);
    snprintf(text, sizeof text, "%s\n%s", p.prompt, response);
    if (!c->jsonl) return put_text(out, text);
    size_t n = put_pair(out, "{\"text\": \"", text);
    n += put_pair(out + n, ", \"prompt\": \"", p.prompt);
    n += put_pair(out + n, ", \"response\": \"", response);
    n += put_pair(out + n, ", \"label\": \"", p.label);
    return n + put_text(out + n, "}");
}

static void make_parts(void *arg, int64_t begin, int64_t end, int thread)
{
    (void)thread;
    round_work *w = arg;
    const ml_synth_config *c = w->config;
    for (int64_t k = begin; k < end; k++) {
        part *p = &w->part[k];
        size_t n = 0;
        for (int i = 0; i < PART_DOCUMENTS; i++) {
            uint64_t index = w->first + (uint64_t)k * PART_DOCUMENTS + (uint64_t)i;
            n += c->kind == ML_SYNTH_STORIES ? make_story(c, index, p->text + n) : make_problem(c, index, p->text + n);
            n += put_text(p->text + n, c->jsonl ? "\n" : "\n<|endoftext|>\n");
            p->end[i] = n;
        }
    }
}

/* Write the round up to the wanted length; *done when it is reached. */
static ml_status write_round(const round_work *w, ml_file_writer *file, uint64_t *n_document, uint64_t *n_bytes,
                             bool *done, ml_error *err)
{
    const ml_synth_config *c = w->config;
    for (int k = 0; k < N_PART && !*done; k++) {
        size_t n = 0;
        for (int i = 0; i < PART_DOCUMENTS && !*done; i++) {
            *n_bytes += w->part[k].end[i] - n;
            n = w->part[k].end[i];
            ++*n_document;
            *done = c->n_document ? *n_document == c->n_document : *n_bytes >= c->n_bytes;
        }
        ML_TRY(ml_file_write(file, w->part[k].text, n, err));
    }
    return ML_OK;
}

static ml_status alloc_round(round_work *w, ml_error *err)
{
    for (int k = 0; k < N_PART; k++) {
        w->part[k].text = ml_alloc(PART_DOCUMENTS * DOCUMENT_MAX);
        if (!w->part[k].text) return ml_fail_memory(err, PART_DOCUMENTS * DOCUMENT_MAX, "generated text");
    }
    return ML_OK;
}

ml_status ml_data_synth(const ml_synth_config *config, uint64_t *n_document, uint64_t *n_bytes, ml_error *err)
{
    uint64_t documents = 0, bytes = 0;
    if (!config->n_document == !config->n_bytes) {
        return ml_fail(err, ML_EINVAL, "give the amount as either a number of documents or a number of bytes");
    }
    round_work *w = ml_calloc(1, sizeof *w);
    if (!w) return ml_fail_memory(err, sizeof *w, "generated text");
    ml_file_writer file = { 0 };
    ml_status status;
    w->config = config;
    ML_TRY_GOTO(alloc_round(w, err));
    ML_TRY_GOTO(ml_file_begin(&file, config->out, err));
    for (bool done = false; !done; w->first += N_PART * PART_DOCUMENTS) {
        ml_parallel_for(N_PART, 1, make_parts, w);
        ML_TRY_GOTO(write_round(w, &file, &documents, &bytes, &done, err));
        ml_progress_update(config->progress, config->n_document ? (double)documents : (double)bytes / 1e6, NULL);
        if (!done && ml_progress_stopped(config->progress)) {
            status = ml_fail(err, ML_ECANCEL, "%s: stopped before it was complete; nothing was written", config->out);
            goto done;
        }
    }
    if (n_document) *n_document = documents;
    if (n_bytes) *n_bytes = bytes;
    status = ml_file_commit(&file, err);
done:
    ml_file_abandon(&file);
    for (int k = 0; k < N_PART; k++) ml_free(w->part[k].text);
    ml_free(w);
    return status;
}
