/* From a conversation to rows: which tokens, and which of them are learned.
 *
 *   prompt        [BOS] prompt response [EOS]; learned: response and EOS.  BOS where the tokenizer puts it before texts
 *   instruction   one question and answer (two or three messages) in the chat format; learned: the first answer up to
 *                 its end
 *   chat          S U1 A1, then S U1 A1 U2 A2, ...: a row for each of the first three answers; learned: the last one up
 *                 to its end.  A turn that does not fit is dropped with all later ones, so that no answer is cut
 *   preference    a prompt and two answers, each with its end: of the chat format, or without one [EOS]
 *
 * Texts of messages cannot forge marks: special tokens in them are plain text. */
#ifndef ML_DATA_ROW_MAKE_H
#define ML_DATA_ROW_MAKE_H

#include "data/dialog.h"
#include "data/rows.h"

typedef enum { ML_ROW_PROMPT, ML_ROW_INSTRUCTION, ML_ROW_CHAT, ML_ROW_PREFERENCE, ML_N_ROW_FORM } ml_row_form;

/* "prompt", "instruction", "chat", "preference" */
const char *ml_row_form_name(ml_row_form form);

/* Why a record gives no row. */
typedef enum {
    ML_REJECT_NONE,
    ML_REJECT_MALFORMED,    /* not a record of this kind */
    ML_REJECT_ROLES,        /* no question first, or roles that do not take turns */
    ML_REJECT_NO_ANSWER,    /* nothing from the assistant */
    ML_REJECT_EMPTY_ANSWER, /* nothing in it */
    ML_REJECT_EQUAL_SIDES,  /* chosen and rejected are the same */
    ML_REJECT_NO_MARKER,    /* the marker before the answer is missing from the row */
    ML_REJECT_TURNS,        /* instruction: more than a question and an answer */
    ML_REJECT_TOO_LONG,     /* more than max_tokens */
    ML_N_REJECT
} ml_row_reject;

/* "malformed", ... */
const char *ml_row_reject_name(ml_row_reject reject);
/* A defect of the record, rather than a record that this kind leaves out. */
bool ml_row_reject_is_bad(ml_row_reject reject);

enum { ML_ROW_MAX_PREFIXES = 3 };

typedef struct {
    const ml_tokenizer *tokenizer;
    ml_row_form form;
    ml_chat_format chat; /* not for ML_ROW_PROMPT; `none` for preferences without one */
    int64_t max_tokens;  /* of a row (a pair: of each answer with its prompt) */
    int32_t eos_id;      /* ends answers of rows without a chat format */
} ml_row_maker;

/* `chat_format` as ml_chat_choose takes it; "auto" is NULL.  ML_EINVAL when the tokenizer lacks what the form needs. */
ml_status ml_row_maker_init(ml_row_maker *m, const ml_tokenizer *tokenizer, ml_row_form form, const char *chat_format,
                            int64_t max_tokens, ml_error *err);

/* Rows of a dialog, *n of them (none when *reject says why).  `row` are emptied before. */
ml_status ml_row_make(const ml_row_maker *m, const ml_dialog *dialog, ml_row row[ML_ROW_MAX_PREFIXES], size_t *n,
                      ml_row_reject *reject, ml_error *err);
/* The row of a pair, when *reject is ML_REJECT_NONE. */
ml_status ml_row_make_pair(const ml_row_maker *m, const ml_preference *preference, ml_row *row, ml_row_reject *reject,
                           ml_error *err);
/* The tokens that a model is given to answer a prompt as such rows have it, without the answer. */
ml_status ml_row_make_prompt(const ml_row_maker *m, const ml_turn *turn, size_t n, ml_ids *out, ml_error *err);

typedef enum { ML_MARK_FIRST, ML_MARK_LAST } ml_mark_rule;

/* What is learned of a row of a format with markers: the tokens behind the first or last `marker`, up to and with the
 * first `end` behind that, or up to the row's end without one.  False when there is no marker, or nothing behind it. */
bool ml_row_find_answer(const int32_t *id, size_t n, int32_t marker, int32_t end, ml_mark_rule rule, ml_row_span *span);

#endif
