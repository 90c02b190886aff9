/* What every machine of the architecture has. */
#define ISA baseline
#include "isa.inc"
