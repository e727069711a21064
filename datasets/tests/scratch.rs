use datasets::*;
use datasets::source::*;
#[test] fn scratch(){
 let t=std::time::Instant::now();
 let s=SourceSpec::Crates{limit_bytes:None}.open().unwrap();
 println!("bytes {} in {:?}", s.size_bytes(), t.elapsed());
 let mut sizes=vec![]; let mut all=String::new();
 s.visit(&mut |i|{ if let Item::Document{text,..}=i { sizes.push(text.len()); all.push_str("\n=====\n"); all.push_str(&text);} Ok(std::ops::ControlFlow::Continue(()))}).unwrap();
 sizes.sort(); println!("docs {} median {} p90 {} max {}", sizes.len(), sizes[sizes.len()/2], sizes[sizes.len()*9/10], sizes[sizes.len()-1]);
 std::fs::write("/tmp/prose.txt", all).unwrap();
 let d=std::path::Path::new("/tmp/storetest"); let _=std::fs::remove_dir_all(d);
 let spec=DataSpec{source:SourceSpec::Crates{limit_bytes:None},tokenizer:TokenizerSpec::Train{vocabulary:2048},validation:ValidationSpec{share:0.02,maximum_tokens:None},bad_line_share:0.0};
 let t=std::time::Instant::now();
 let st=prepare(&spec,d,&mut |p|println!("{:?} {:?}",p,t.elapsed())).unwrap();
 println!("{:?} {:#?}", t.elapsed(), st.manifest());
}
