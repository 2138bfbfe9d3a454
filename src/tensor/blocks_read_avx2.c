/* Reading block types on machines with AVX2. */
#define BLOCK_READ_TABLE ml_block_read_avx2
#include "tensor/blocks_read_body.h"
