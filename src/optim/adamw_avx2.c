#define ML_ADAMW_UPDATE ml_adamw_update_avx2
#include "optim/adamw_body.h"
