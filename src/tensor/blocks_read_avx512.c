/* Reading block types on machines with AVX-512. */
#define BLOCK_READ_TABLE ml_block_read_avx512
#include "tensor/blocks_read_body.h"
