"""A small model of each family (module) of timm, and the side of the smallest images that it can be trained on."""

#: Those above 130 million parameters are left out: gemma4_vit, deepseek_vit.
SIDES = {
    32: (
        "beit_base_patch16_224 caformer_s18 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32 "
        "convnext_atto_rms cpubone_nano cs3darknet_focus_s cspnext_tiny davit_tiny deit_tiny_patch16_224 "
        "densenet121 dla34 dpn48b edgenext_xx_small efficientformerv2_s0 efficientvim_m1 efficientvit_b0 "
        "efficientvit_m0 ese_vovnet19b_slim_dw fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny "
        "ghostnet_050 gmlp_ti16_224 hardcorenas_b hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_t "
        "inception_next_atto lcnet_035 lcnetv2_small legacy_seresnet18 legacy_xception levit_128s "
        "lowformer_b0 mambaout_femto maxvit_pico_rw_256 mobilenetv2_035 mobilenetv5_base mobileone_s0 "
        "mobilevit_xxs mvitv2_tiny naflexvit_base_patch16_siglip nasnetalarge nest_tiny nextvit_small nf_regnet_b0 "
        "pit_xs_224 pnasnet5large "
        "pvt_v2_b0 qwen3_vit_88m rdnet_tiny regnetx_004_tv repghostnet_050 repvit_m1 res2next50 resnest14d "
        "resnet18 resnetv2_18 rexnet_100 sam2_hiera_tiny samvit_base_patch16_224 selecsls42 sequencer2d_s "
        "shvit_s1 skresnet18 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 "
        "swinv2_tiny_window8_256 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 "
        "visformer_tiny vit_srelpos_small_patch16_224 vit_tiny_patch16_224 vit_tiny_patch16_dinov3_qkvb "
        "vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 xception41p xcit_nano_12_p8_224 "
    ),
    64: ("csatv2 "),
    96: ("inception_resnet_v2 inception_v3 "),
    128: ("inception_v4 "),
    224: ("efficientformer_l1 "),
    240: ("crossvit_tiny_240 "),
    256: ("halonet_h1 "),
}
FAMILIES = [(arch, side) for side, names in SIDES.items() for arch in names.split()]
