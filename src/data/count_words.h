/* Records -> the words that a tokenizer is trained on. */
#ifndef ML_DATA_COUNT_WORDS_H
#define ML_DATA_COUNT_WORDS_H

#include "base/log.h"
#include "data/records.h"
#include "token/train.h"

typedef struct {
    const char *field;     /* of JSON and Parquet records: where the text is */
    int64_t limit;         /* so many records at most; 0: all */
    uint64_t end;          /* only those that begin before this byte of all files (ml_records_measure); 0: all */
    double max_bad;        /* records that may be malformed, as a fraction; they are left out */
    ml_progress *progress; /* told the MB that were read when `tell` is set, asked whether to stop; may be NULL */
    bool tell;
} ml_count_words_config;

/* ML_ECANCEL when the progress is stopped; ML_EFORMAT, naming the first, when too many records are malformed. */
ml_status ml_data_count_words(ml_records *records, const ml_count_words_config *config, ml_bpe_trainer *trainer,
                              ml_record_tally *tally, ml_error *err);

#endif
