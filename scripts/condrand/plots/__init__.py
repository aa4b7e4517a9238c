"""Figures: a table in, a matplotlib Figure out. No file is opened and no pyplot state is used.

``qq.qq``, ``volcano.volcano``, ``volcano.volcano_by_feature``, ``p_histogram.p_histogram`` and
``propensity.propensity`` draw; ``style``, ``points`` and ``labels`` serve them. Importing the
package itself is cheap: matplotlib is imported by the modules.
"""
