/* moonlight dpo RECIPE */
#include "cli/cli.h"
#include "cli/pretrain.h"

ml_status ml_cli_dpo(int argc, char **argv, ml_error *err)
{
    return ml_cli_train("dpo", argc, argv, err);
}
