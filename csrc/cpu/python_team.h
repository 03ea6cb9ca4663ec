// A Python function in every thread of a team.
#pragma once

#include <Python.h>

namespace dynams {

// Calls `function()` once in each of up to `threads` threads, the caller's among them, and waits for all of them.
// What it returns is dropped. Where torch's own OpenMP threads are the team, torch's operators run on one thread within
// it. Throws the first exception of any of them, after all are done: `function` itself has to see that the others stop.
void call_in_team(PyObject* function, int threads);

}  // namespace dynams
