"""
The figures of an analysis, as PNG and SVG.

INPUTS
    results/{screen}/{analysis}/effects.parquet, controls.parquet, ntc_groups.parquet
    results/{screen}/{analysis}/crt_null.tsv, units.tsv, residual_trends.tsv, crossfit.parquet
OUTPUTS
    results/{screen}/{analysis}/plots/{qq,volcano,volcano_by_feature,p_histogram}.{png,svg}
    results/{screen}/{analysis}/plots/{qq_diagnostics,qq_by_feature,agreement}.{png,svg}
    results/{screen}/{analysis}/plots/{propensity,residuals,qq_crossfit}.{png,svg}
    results/{screen}/{analysis}/plots/targets.pdf, {volcano,md}_by_target.{png,svg}       (dex)
    results/{screen}/{analysis}/plots/{heatmap,dotplot,ranking}.{png,svg}                  (dex)
    results/{screen}/{analysis}/plots/{library_sizes,densities,mds,voom_trend}.{png,svg}   (limma)
    results/{screen}/{analysis}/plots/{md,volcano}_by_contrast.{png,svg}, sa, top_heatmap  (limma)
    results/{screen}/{analysis}/plots/clustered_heatmap.{png,svg}                          (anova)
"""


rule plot_effects:
    input:
        effects="results/{screen}/{analysis}/effects.parquet",
        controls="results/{screen}/{analysis}/controls.parquet",
    output:
        qq_png=report(
            "results/{screen}/{analysis}/plots/qq.png",
            caption="../report/qq.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "QQ plot"},
        ),
        volcano_png=report(
            "results/{screen}/{analysis}/plots/volcano.png",
            caption="../report/volcano.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Volcano plot"},
        ),
        volcano_by_feature_png=report(
            "results/{screen}/{analysis}/plots/volcano_by_feature.png",
            caption="../report/volcano_by_feature.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Volcano plot by feature"},
        ),
        p_histogram_png=report(
            "results/{screen}/{analysis}/plots/p_histogram.png",
            caption="../report/p_histogram.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "p value histogram"},
        ),
        qq_svg="results/{screen}/{analysis}/plots/qq.svg",
        volcano_svg="results/{screen}/{analysis}/plots/volcano.svg",
        volcano_by_feature_svg="results/{screen}/{analysis}/plots/volcano_by_feature.svg",
        p_histogram_svg="results/{screen}/{analysis}/plots/p_histogram.svg",
    log:
        "logs/{screen}/{analysis}/plots/effects.log",
    benchmark:
        "logs/{screen}/{analysis}/plots/effects.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt", "dex"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=30,
    params:
        fdr=config["fdr"],
        version=RESULTS_VERSION["plots"],
    script:
        "../../scripts/plot_effects.py"


rule plot_propensity:
    input:
        units="results/{screen}/{analysis}/units.tsv",
    output:
        png=report(
            "results/{screen}/{analysis}/plots/propensity.png",
            caption="../report/propensity.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Propensities and treated cells"},
        ),
        svg="results/{screen}/{analysis}/plots/propensity.svg",
    log:
        "logs/{screen}/{analysis}/plots/propensity.log",
    benchmark:
        "logs/{screen}/{analysis}/plots/propensity.benchmark.tsv"
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=10,
    params:
        version=RESULTS_VERSION["plots"],
    script:
        "../../scripts/plot_propensity.py"


rule plot_diagnostics:
    input:
        effects="results/{screen}/{analysis}/effects.parquet",
        controls="results/{screen}/{analysis}/controls.parquet",
        groups="results/{screen}/{analysis}/ntc_groups.parquet",
        null_counts="results/{screen}/{analysis}/crt_null.tsv",
    output:
        qq_diagnostics_png=report(
            "results/{screen}/{analysis}/plots/qq_diagnostics.png",
            caption="../report/qq_diagnostics.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "QQ plot, all controls"},
        ),
        qq_by_feature_png=report(
            "results/{screen}/{analysis}/plots/qq_by_feature.png",
            caption="../report/qq_by_feature.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "QQ plot by feature"},
        ),
        agreement_png=report(
            "results/{screen}/{analysis}/plots/agreement.png",
            caption="../report/agreement.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Small p values, by source"},
        ),
        qq_diagnostics_svg="results/{screen}/{analysis}/plots/qq_diagnostics.svg",
        qq_by_feature_svg="results/{screen}/{analysis}/plots/qq_by_feature.svg",
        agreement_svg="results/{screen}/{analysis}/plots/agreement.svg",
    log:
        "logs/{screen}/{analysis}/plots/diagnostics.log",
    benchmark:
        "logs/{screen}/{analysis}/plots/diagnostics.benchmark.tsv"
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=30,
    params:
        p_floor=lambda wildcards: p_floors_of(wildcards)[0],
        version=RESULTS_VERSION["plots"],
    script:
        "../../scripts/plot_diagnostics.py"


rule plot_residuals:
    input:
        trends="results/{screen}/{analysis}/residual_trends.tsv",
        outcome="results/{screen}/{analysis}/outcome.h5ad",
    output:
        png=report(
            "results/{screen}/{analysis}/plots/residuals.png",
            caption="../report/residuals.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Outcome residuals along covariates"},
        ),
        svg="results/{screen}/{analysis}/plots/residuals.svg",
    log:
        "logs/{screen}/{analysis}/plots/residuals.log",
    benchmark:
        "logs/{screen}/{analysis}/plots/residuals.benchmark.tsv"
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=10,
    params:
        version=RESULTS_VERSION["plots"],
    script:
        "../../scripts/plot_residuals.py"


rule plot_crossfit:
    input:
        crossfit="results/{screen}/{analysis}/crossfit.parquet",
    output:
        png=report(
            "results/{screen}/{analysis}/plots/qq_crossfit.png",
            caption="../report/qq_crossfit.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "QQ plot, cross-fitted NTC pseudo-genes"},
        ),
        svg="results/{screen}/{analysis}/plots/qq_crossfit.svg",
    log:
        "logs/{screen}/{analysis}/plots/qq_crossfit.log",
    benchmark:
        "logs/{screen}/{analysis}/plots/qq_crossfit.benchmark.tsv"
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=30,
    params:
        version=RESULTS_VERSION["plots"],
    script:
        "../../scripts/plot_crossfit.py"


rule plot_targets:
    input:
        effects="results/{screen}/{analysis}/effects.parquet",
    output:
        volcano_by_target_png=report(
            "results/{screen}/{analysis}/plots/volcano_by_target.png",
            caption="../report/volcano_by_target.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Volcano plot by target"},
        ),
        md_by_target_png=report(
            "results/{screen}/{analysis}/plots/md_by_target.png",
            caption="../report/md_by_target.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Mean-difference plot by target"},
        ),
        heatmap_png=report(
            "results/{screen}/{analysis}/plots/heatmap.png",
            caption="../report/heatmap.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Heatmap of top features"},
        ),
        dotplot_png=report(
            "results/{screen}/{analysis}/plots/dotplot.png",
            caption="../report/dotplot.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Dot plot of top features"},
        ),
        ranking_png=report(
            "results/{screen}/{analysis}/plots/ranking.png",
            caption="../report/ranking.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Targets ranked by effects"},
        ),
        ranked=report(
            "results/{screen}/{analysis}/ranked_targets.tsv",
            caption="../report/ranked_targets.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Targets ranked by effects (table)"},
        ),
        targets_pdf=report(
            "results/{screen}/{analysis}/plots/targets.pdf",
            caption="../report/targets.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Volcano and mean-difference plot of each target (PDF)"},
        ),
        volcano_by_target_svg="results/{screen}/{analysis}/plots/volcano_by_target.svg",
        md_by_target_svg="results/{screen}/{analysis}/plots/md_by_target.svg",
        heatmap_svg="results/{screen}/{analysis}/plots/heatmap.svg",
        dotplot_svg="results/{screen}/{analysis}/plots/dotplot.svg",
        ranking_svg="results/{screen}/{analysis}/plots/ranking.svg",
    log:
        "logs/{screen}/{analysis}/plots/targets.log",
    benchmark:
        "logs/{screen}/{analysis}/plots/targets.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("dex"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=60,
    params:
        fdr=config["fdr"],
        version=RESULTS_VERSION["plots"],
    script:
        "../../scripts/plot_targets.py"


rule plot_samples:
    input:
        filtered="results/{screen}/{analysis}/filtered.h5ad",
    output:
        library_sizes_png=report(
            "results/{screen}/{analysis}/plots/library_sizes.png",
            caption="../report/library_sizes.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Library sizes"},
        ),
        densities_png=report(
            "results/{screen}/{analysis}/plots/densities.png",
            caption="../report/densities.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Log counts per million, densities"},
        ),
        mds_png=report(
            "results/{screen}/{analysis}/plots/mds.png",
            caption="../report/mds.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "MDS of samples"},
        ),
        library_sizes_svg="results/{screen}/{analysis}/plots/library_sizes.svg",
        densities_svg="results/{screen}/{analysis}/plots/densities.svg",
        mds_svg="results/{screen}/{analysis}/plots/mds.svg",
    log:
        "logs/{screen}/{analysis}/plots/samples.log",
    benchmark:
        "logs/{screen}/{analysis}/plots/samples.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("limma"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=30,
    params:
        version=RESULTS_VERSION["plots"],
    script:
        "../../scripts/plot_samples.py"


rule plot_trend:
    input:
        outcome="results/{screen}/{analysis}/outcome.h5ad",
    output:
        voom_trend_png=report(
            "results/{screen}/{analysis}/plots/voom_trend.png",
            caption="../report/voom_trend.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Mean-variance trend"},
        ),
        voom_trend_svg="results/{screen}/{analysis}/plots/voom_trend.svg",
    log:
        "logs/{screen}/{analysis}/plots/trend.log",
    benchmark:
        "logs/{screen}/{analysis}/plots/trend.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("limma"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=30,
    params:
        version=RESULTS_VERSION["plots"],
    script:
        "../../scripts/plot_trend.py"


rule plot_contrasts:
    input:
        effects="results/{screen}/{analysis}/effects.parquet",
        features="results/{screen}/{analysis}/features.tsv.gz",
        outcome="results/{screen}/{analysis}/outcome.h5ad",
    output:
        md_by_contrast_png=report(
            "results/{screen}/{analysis}/plots/md_by_contrast.png",
            caption="../report/md_by_contrast.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Mean-difference plot by contrast"},
        ),
        volcano_by_contrast_png=report(
            "results/{screen}/{analysis}/plots/volcano_by_contrast.png",
            caption="../report/volcano_by_contrast.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Volcano plot by contrast"},
        ),
        sa_png=report(
            "results/{screen}/{analysis}/plots/sa.png",
            caption="../report/sa.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Residual standard deviations"},
        ),
        top_heatmap_png=report(
            "results/{screen}/{analysis}/plots/top_heatmap.png",
            caption="../report/top_heatmap.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Heatmap of top features"},
        ),
        p_histogram_png=report(
            "results/{screen}/{analysis}/plots/p_histogram.png",
            caption="../report/p_histogram_linear.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "p value histogram"},
        ),
        top_heatmaps_pdf=report(
            "results/{screen}/{analysis}/plots/top_heatmaps.pdf",
            caption="../report/top_heatmaps.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Heatmap of top features of each contrast (PDF)"},
        ),
        md_by_contrast_svg="results/{screen}/{analysis}/plots/md_by_contrast.svg",
        volcano_by_contrast_svg="results/{screen}/{analysis}/plots/volcano_by_contrast.svg",
        sa_svg="results/{screen}/{analysis}/plots/sa.svg",
        top_heatmap_svg="results/{screen}/{analysis}/plots/top_heatmap.svg",
        p_histogram_svg="results/{screen}/{analysis}/plots/p_histogram.svg",
    log:
        "logs/{screen}/{analysis}/plots/contrasts.log",
    benchmark:
        "logs/{screen}/{analysis}/plots/contrasts.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("limma"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=linear_mem_mb,
        runtime=30,
    params:
        fdr=config["fdr"],
        version=RESULTS_VERSION["plots"],
    script:
        "../../scripts/plot_contrasts.py"


rule plot_anova:
    input:
        samples="results/{screen}/{analysis}/samples.h5ad",
        effects="results/{screen}/{analysis}/effects.parquet",
    output:
        clustered_heatmap_png=report(
            "results/{screen}/{analysis}/plots/clustered_heatmap.png",
            caption="../report/clustered_heatmap.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Clustered heatmap of significant features"},
        ),
        p_histogram_png=report(
            "results/{screen}/{analysis}/plots/p_histogram.png",
            caption="../report/p_histogram_linear.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "p value histogram"},
        ),
        clustered_heatmap_svg="results/{screen}/{analysis}/plots/clustered_heatmap.svg",
        p_histogram_svg="results/{screen}/{analysis}/plots/p_histogram.svg",
    log:
        "logs/{screen}/{analysis}/plots/anova.log",
    benchmark:
        "logs/{screen}/{analysis}/plots/anova.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("anova"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=linear_mem_mb,
        runtime=30,
    params:
        fdr=config["fdr"],
        settings=lambda wildcards: {
            **anova_settings(wildcards),
            **{key: analysis_of(wildcards)[key] for key in ("significant", "colour")},
        },
        version=RESULTS_VERSION["plots"],
    script:
        "../../scripts/plot_anova.py"


rule plot_kompot_cells:
    input:
        states="results/{screen}/{analysis}/states.h5ad",
        abundance="results/{screen}/{analysis}/abundance.h5",
    output:
        abundance_volcano_png=report(
            "results/{screen}/{analysis}/plots/abundance_volcano.png",
            caption="../report/abundance_volcano.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Volcano plot of abundance"},
        ),
        abundance_embedding_png=report(
            "results/{screen}/{analysis}/plots/abundance_embedding.png",
            caption="../report/abundance_embedding.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Abundance in the embedding"},
        ),
        abundance_volcano_svg="results/{screen}/{analysis}/plots/abundance_volcano.svg",
        abundance_embedding_svg="results/{screen}/{analysis}/plots/abundance_embedding.svg",
    log:
        "logs/{screen}/{analysis}/plots/cells.log",
    benchmark:
        "logs/{screen}/{analysis}/plots/cells.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("kompot"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=30,
    params:
        version=RESULTS_VERSION["plots"],
    script:
        "../../scripts/plot_kompot_cells.py"


rule plot_kompot_genes:
    input:
        effects="results/{screen}/{analysis}/effects.parquet",
        null_distances="results/{screen}/{analysis}/null_distances.tsv.gz",
        panels="results/{screen}/{analysis}/panels.h5",
        states="results/{screen}/{analysis}/states.h5ad",
    output:
        expression_volcano_png=report(
            "results/{screen}/{analysis}/plots/expression_volcano.png",
            caption="../report/expression_volcano.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Volcano plot of expression"},
        ),
        mahalanobis_png=report(
            "results/{screen}/{analysis}/plots/mahalanobis.png",
            caption="../report/mahalanobis.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Mahalanobis distances"},
        ),
        panels_png=report(
            "results/{screen}/{analysis}/plots/panels.png",
            caption="../report/panels.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Smoothed expression of top genes"},
        ),
        p_histogram_png=report(
            "results/{screen}/{analysis}/plots/p_histogram.png",
            caption="../report/p_histogram_linear.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "p value histogram"},
        ),
        expression_volcano_svg="results/{screen}/{analysis}/plots/expression_volcano.svg",
        mahalanobis_svg="results/{screen}/{analysis}/plots/mahalanobis.svg",
        panels_svg="results/{screen}/{analysis}/plots/panels.svg",
        p_histogram_svg="results/{screen}/{analysis}/plots/p_histogram.svg",
    log:
        "logs/{screen}/{analysis}/plots/genes.log",
    benchmark:
        "logs/{screen}/{analysis}/plots/genes.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("kompot"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=30,
    params:
        fdr=config["fdr"],
        version=RESULTS_VERSION["plots"],
    script:
        "../../scripts/plot_kompot_genes.py"
