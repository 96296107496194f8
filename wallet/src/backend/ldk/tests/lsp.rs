//! A wallet without coins or channels is paid, by way of a provider of liquidity.

use ldk_node::Builder;
use ldk_node::config::{ChannelConfig, Config as LdkConfig, EsploraSyncConfig};
use ldk_node::lightning_invoice::Bolt11Invoice;
use ldk_node::liquidity::LSPS2ServiceConfig;

use super::*;

/// What the provider keeps: a hundredth.
const FEE_PPM: u32 = 10_000;

/// A node that provides.
fn provider(dir: &TempDir, server: &Server, port: u16) -> Node {
    let mut builder = Builder::from_config(LdkConfig {
        storage_dir_path: dir.path().to_string_lossy().into_owned(),
        network: ldk_node::bitcoin::Network::Regtest,
        ..LdkConfig::default()
    });
    builder.set_chain_source_esplora(server.url(), Some(EsploraSyncConfig { background_sync_config: None }));
    builder.set_custom_logger(Arc::new(log::Tracing));
    builder.set_node_alias("provider".to_owned()).unwrap();
    builder.set_listening_addresses(vec![start::address(&format!("127.0.0.1:{port}")).unwrap()]).unwrap();
    builder.set_liquidity_provider_lsps2(LSPS2ServiceConfig {
        require_token: Some("let me in".to_owned()),
        advertise_service: false,
        channel_opening_fee_ppm: FEE_PPM,
        channel_over_provisioning_ppm: 100_000,
        min_channel_opening_fee_msat: 0,
        min_channel_lifetime: 100,
        max_client_to_self_delay: 1_024,
        min_payment_size_msat: 0,
        max_payment_size_msat: 1_000_000_000,
        client_trusts_lsp: true,
    });
    let node = builder.build().unwrap();
    node.start().unwrap();
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_without_coins_is_paid_by_way_of_a_provider() {
    let chain = Chain::new();
    let server = chain.serve("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let dirs = [TempDir::new().unwrap(), TempDir::new().unwrap(), TempDir::new().unwrap()];
    let port = free_port();
    let provider = provider(&dirs[0], &server, port);
    let node_id = NodeId::from(provider.node_id());
    let address = format!("127.0.0.1:{port}");
    let payer = start(&dirs[1], &server, free_port(), "payer").await;
    let lsp = Lsp {
        node_id,
        address: address.clone(),
        token: Some(Password("let me in".to_owned())),
        fee_max: Msat::ZERO,
        fee_max_ppm: FEE_PPM,
    };
    let setup = |lsp| Config { lsp: Some(lsp), ..config(&dirs[2], &server, free_port(), "payee") };

    chain.fund(&provider.onchain_payment().new_address().unwrap().to_string(), Sat(3_000_000)).unwrap();
    chain.fund(&payer.address().await.unwrap(), Sat(3_000_000)).unwrap();
    chain.mine(1);
    provider.sync_wallets().unwrap();
    payer.sync().await.unwrap();
    payer.open_channel(node_id, &address, Sat(2_000_000), Msat::ZERO).await.unwrap();
    until("the funding", || async { (chain.waiting() > 0).then_some(()) }).await;
    chain.mine(6);
    provider.sync_wallets().unwrap();
    payer.sync().await.unwrap();
    usable(&payer).await;

    let stingy =
        Ldk::start(setup(Lsp { fee_max_ppm: FEE_PPM - 1, ..lsp.clone() }), &seed(&dirs[2])).await.unwrap();
    let refused = stingy.invoice(asked(Some(100_000_000), "")).await;
    assert_eq!(refused, Err(Error::Unavailable("the provider of liquidity asks too much".to_owned())));
    stingy.stop().await.unwrap();

    let payee = Ldk::start(setup(lsp), &seed(&dirs[2])).await.unwrap();
    let invoice = payee.invoice(asked(Some(100_000_000), "first")).await.unwrap();
    let payment = payer.pay(&invoice.bolt11, None, Msat::new(10_000_000)).await.unwrap();
    settled(&payer, &payment).await;
    let received = Event::Received { hash: invoice.hash, amount: Msat::new(99_000_000), records: Vec::new() };
    event(&payee, "received, less the fee", |event| *event == received).await;
    let kept = payee.look_up(invoice.hash).await.unwrap().unwrap();
    assert!(matches!(kept.state, State::Settled { fee, .. } if fee == Msat::new(1_000_000)), "{kept:?}");
    owns(&payee, Msat::new(99_000_000)).await;

    // The channel it left behind is paid through like any other: to us in full, and the way costs the payer.
    let channel = provider
        .list_channels()
        .into_iter()
        .find(|channel| channel.counterparty_node_id == *payee.id().key());
    let channel = channel.unwrap();
    let fees = ChannelConfig {
        forwarding_fee_base_msat: 2_000,
        forwarding_fee_proportional_millionths: 1_000,
        ..channel.config
    };
    provider.update_channel_config(&channel.user_channel_id, channel.counterparty_node_id, fees).unwrap();
    let invoice = until("an invoice that names the way's price", || async {
        let invoice = payee.invoice(asked(Some(1_000_000), "second")).await.unwrap();
        let hints = invoice.bolt11.parse::<Bolt11Invoice>().unwrap().route_hints();
        hints.iter().flat_map(|hint| &hint.0).any(|hop| hop.fees.base_msat == 2_000).then_some(invoice)
    })
    .await;
    let before = payer.balance().await.unwrap().in_channels;
    assert_eq!(payer.pay(&invoice.bolt11, None, Msat::new(2_999)).await, Err(Error::NoRoute));
    let payment = payer.pay(&invoice.bolt11, None, Msat::new(3_000)).await.unwrap();
    assert_eq!(settled(&payer, &payment).await.2, Msat::new(3_000));
    owns(&payer, before.saturating_sub(Msat::new(1_003_000))).await;
    owns(&payee, Msat::new(100_000_000)).await;
    let received = Event::Received { hash: invoice.hash, amount: Msat::new(1_000_000), records: Vec::new() };
    event(&payee, "received in full", |event| *event == received).await;

    payer.stop().await.unwrap();
    payee.stop().await.unwrap();
    provider.stop().unwrap();
    server.shutdown().await;
}
