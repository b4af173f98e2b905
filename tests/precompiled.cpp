// Carries the headers that the tests share in precompiled form.
