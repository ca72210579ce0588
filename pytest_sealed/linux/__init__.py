"""System calls that Python's standard library lacks: typed, thin, named after their man pages.

The only package that imports ctypes. Each call raises `OSError` whose text names the call and the
path; layers above translate it into an error of `pytest_sealed.errors`.
"""
