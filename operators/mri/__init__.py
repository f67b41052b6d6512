"""MRI: k-space on a Cartesian box or along any trajectory, seen through receive coils.

One equation for every module, in the scanner's (device) coordinates:

    y(k) = N^-1/2 sum_n x(r_n) exp(-2 pi i k . (r_n - r_0))

k in 1/mm, r_0 the point of zero phase. `cartesian` and `noncartesian` hold the geometries, `coils` the
receive sensitivities, `patterns` and `trajectories` make the samples, `density` weighs them,
`off_resonance` adds a field map.
"""
