/* Counting sort of visits to experts: see experts.c. */
#pragma once
#include "common.h"

int sort_visits(const i64* chosen, i64 N, i64 K, i64 E, i64* place, i64* token, int32_t* ends, i64 threads);
