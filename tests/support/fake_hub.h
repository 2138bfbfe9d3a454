/* A hub that holds one data set and one model and can be told to fail: enough of the Hugging Face hub's API for `data
 * fetch`.
 *
 *   data set org/set   main: README.md, data/a b.jsonl, data/large.bin (300,000 bytes, lfs)
 *                      refs/convert/parquet: default/train/0000.parquet, default/test/0000.parquet,
 *                      other/partial-train/0000.parquet (lfs)
 *   model org/net      main: config.json, model.safetensors (lfs), pytorch_model.bin (lfs)
 *   data set org/gated 401 unless the token is "secret"
 *   data set org/evil  lists a file "../escaped" */
#ifndef ML_TESTS_FAKE_HUB_H
#define ML_TESTS_FAKE_HUB_H

#include "support/https_server.h"

#include <stdatomic.h>

typedef enum {
    HUB_CUT,         /* the connection ends after `amount` bytes of the body */
    HUB_STALL,       /* nothing more comes after `amount` bytes */
    HUB_STATUS,      /* this status instead */
    HUB_BUSY,        /* 429 with Retry-After: 0 */
    HUB_LONGER,      /* Content-Length says `amount` more than the file has */
    HUB_ENDLESS,     /* no Content-Length, and more bytes than the file has */
    HUB_DAMAGED,     /* a byte is another */
    HUB_NO_RANGE,    /* the whole file whatever part was asked for */
    HUB_WRONG_RANGE, /* another part than was asked for */
    HUB_CHANGED,     /* another ETag */
    HUB_REDIRECT,    /* to the same file on "localhost" */
    HUB_LOOP,        /* a redirection to itself */
    HUB_BAD_JSON,    /* an answer that is none */
} hub_fault_kind;

/* For the next `n` requests whose target contains `part`. */
typedef struct {
    const char *part;
    hub_fault_kind kind;
    int amount, n;
} hub_fault;

enum { HUB_LARGE_BYTES = 300000, HUB_MAX_FAULTS = 8 };

typedef struct {
    test_server *server;
    hub_fault fault[HUB_MAX_FAULTS];           /* in order; n = 0: none */
    atomic_int n_request;                      /* all */
    atomic_int n_file_request, n_part_request; /* of files, and those with a range */
    char file_authorization[256];              /* of the last request for a file; look after fake_hub_stop */
    atomic_int n_redirected;                   /* requests for files that came to "localhost" */
    char redirected_authorization[256];        /* of the last of them */
} fake_hub;

/* `folder` is for the certificate; NULL: plain HTTP.  Zeroed fault list first. */
void fake_hub_start(fake_hub *hub, const char *folder);
void fake_hub_stop(fake_hub *hub);
/* The bytes of a file of the hub, by its path; NULL when there is none. */
const char *fake_hub_file(const char *path, size_t *n);

#endif
