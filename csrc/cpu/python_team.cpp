#include "python_team.h"

#include <pybind11/pybind11.h>

#include <exception>
#include <mutex>

#include "parallel.h"

namespace py = pybind11;

namespace dynams {

void call_in_team(PyObject* function, int threads) {
  std::exception_ptr first;
  std::mutex mutex;
  {
    const py::gil_scoped_release release;
    run_team(threads, [&](const Member&) {
      const py::gil_scoped_acquire acquire;
      try {
        py::reinterpret_borrow<py::object>(function)();
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (first == nullptr) first = std::current_exception();
      }
    });
  }
  if (first != nullptr) std::rethrow_exception(first);
}

}  // namespace dynams
