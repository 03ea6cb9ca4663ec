// Python functions of integers alone, called the quickest way that Python has. What a general binding spends on twenty
// arguments (0.3 us) is more than a small kernel takes.
#pragma once

#include <Python.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <exception>
#include <new>
#include <type_traits>
#include <utility>

namespace dynams {

template <class T>
T from_python(PyObject* object) {
  if constexpr (std::is_same_v<T, PyObject*>) {
    return object;
  } else {
    const long long value = PyLong_AsLongLong(object);
    if (value == -1 && PyErr_Occurred() != nullptr) throw pybind11::error_already_set();
    return static_cast<T>(value);
  }
}

// The Python function of a C++ one whose parameters are integers, addresses among them, or any object (PyObject*), and
// whose result is an integer or nothing.
template <auto kFunction>
struct IntegerCall;

template <class Result, class... Parameters, Result (*kFunction)(Parameters...)>
struct IntegerCall<kFunction> {
  static PyObject* call(PyObject*, PyObject* const* given, Py_ssize_t count) {
    if (count != sizeof...(Parameters))
      return PyErr_Format(PyExc_TypeError, "got %zd arguments, want %zu", count, sizeof...(Parameters));
    try {
      return invoke(given, std::index_sequence_for<Parameters...>{});
    } catch (pybind11::error_already_set& error) {
      error.restore();
    } catch (const pybind11::builtin_exception& error) {
      error.set_error();
    } catch (const std::bad_alloc&) {
      PyErr_NoMemory();
    } catch (const std::exception& error) {
      PyErr_SetString(PyExc_RuntimeError, error.what());
    }
    return nullptr;
  }

 private:
  template <size_t... kPlaces>
  static PyObject* invoke(PyObject* const* given, std::index_sequence<kPlaces...>) {
    if constexpr (std::is_void_v<Result>) {
      kFunction(from_python<Parameters>(given[kPlaces])...);
      Py_RETURN_NONE;
    } else {
      return PyLong_FromLongLong(kFunction(from_python<Parameters>(given[kPlaces])...));
    }
  }
};

// An entry of a module's table of functions, which ends with {}.
template <auto kFunction>
PyMethodDef integer_call(const char* name) {
  const auto function = reinterpret_cast<void (*)()>(&IntegerCall<kFunction>::call);
  return {name, reinterpret_cast<PyCFunction>(function), METH_FASTCALL, nullptr};
}

}  // namespace dynams
